"""JSON is measured before it is parsed: hostile texts exceed the limits, and honest ones don't."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import shape
from schemas.shape import ShapeLimits, beyond

LIMITS = ShapeLimits(values_max=100, depth_max=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8) | st.sampled_from(['"', "\\", '\\"', "[,:{"]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=4), inner, max_size=6),
    max_leaves=60,
)


def counted(value: Any) -> tuple[int, int]:
    """Values and names, and depth, as a parser sees them."""
    if isinstance(value, dict):
        inner = [counted(child) for child in value.values()]
        return 1 + len(value) + sum(n for n, _ in inner), 1 + max((d for _, d in inner), default=0)
    if isinstance(value, list):
        inner = [counted(child) for child in value]
        return 1 + sum(n for n, _ in inner), 1 + max((d for _, d in inner), default=0)
    return 1, 0


@given(JSON, st.booleans())
def test_the_depth_is_that_of_the_parsed_value_and_no_value_goes_uncounted(value: Any, indented: bool) -> None:
    data = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indented else 0)
    values, depth = counted(value)
    many = ShapeLimits(values_max=10_000, depth_max=depth)
    assert beyond(data, many) is None
    if depth > 0:
        assert beyond(data, ShapeLimits(values_max=10_000, depth_max=depth - 1)) is not None
    assert beyond(data, ShapeLimits(values_max=2 * values + 1, depth_max=depth)) is None
    assert beyond(data, ShapeLimits(values_max=max(1, (values - 1) // 2), depth_max=depth)) is not None or values < 3


@pytest.mark.parametrize(
    "text",
    ["a, b, c, " * 10_000, "{[" * 10_000, '"quoted", ' * 5_000, "\\" * 9_999, '\\",\\"' * 3_333, "\\\\[" * 3_000],
)
def test_a_string_is_one_value_whatever_its_content(text: str) -> None:
    assert beyond(orjson.dumps({"input": text}), LIMITS) is None


@given(JSON, st.integers(1, 12))
def test_the_measure_does_not_depend_on_the_size_of_pieces(value: Any, piece_bytes: int) -> None:
    data = orjson.dumps(value)
    with pytest.MonkeyPatch.context() as patched:
        whole = shape._marks_outside_texts(data, 1_000)
        patched.setattr(shape, "PIECE_BYTES", piece_bytes)
        assert shape._marks_outside_texts(bytearray(data), 1_000) == whole
        assert all(shape._count(data, mark) == data.count(mark) for mark in b"[{,:")


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000 + b"]" * 1_000,
        b"[" + b",".join([b"[]"] * 200) + b"]",
        b"[" + b",".join([b'""'] * 200) + b"]",
        b"{" + b",".join(b'"%d":0' % n for n in range(200)) + b"}",
        b"[[[[[[[[[1]]]]]]]]]",
    ],
)
def test_more_values_or_levels_than_allowed_are_refused(data: bytes) -> None:
    assert beyond(data, LIMITS) is not None
