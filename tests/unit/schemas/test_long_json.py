"""Large JSON with its long strings as bytes has the value, the canonical form and the errors of the parser."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import long_json, long_texts
from schemas.codec import canonical
from schemas.long_json import load
from schemas.long_texts import CHARS_MAX, LongText, beginnings, has_long_text, whole
from schemas.requests import Submit

ATOMS = (
    b"x", b"iVBORw0KGg", b" ", b"\\n", b'\\"', b"\\\\", b"\\/", b"\\u0041", b"\\u001f", b"\\u00e9", b"\\ud83d\\ude00",
    b"\x7f", "é".encode(), "€".encode(), "😀".encode(), b"[{,:}]",
)  # fmt: skip
WRONG = (b"\\ud83d", b"\\ude00", b"\\ud83d\\ud83d", b"\\x", b"\\u12", b"\n", b"\x00", b"\xff", b"\xed\xa0\x80", b'"')
REPEATED = st.sampled_from([0, 1, 2, 3, 20, 63, 64, 65, 199, 200, 201, 300])

texts = st.lists(st.builds(bytes.__mul__, st.sampled_from(ATOMS), REPEATED), max_size=4).map(b"".join)
names = st.one_of(texts, st.sampled_from([b"a", b"\\u0061", b"a" * 201, b"\\u0061" * 201, b"a" * 202]))
whites = st.builds(bytes.__mul__, st.sampled_from([b" ", b"\n", b" \t\r\n"]), st.sampled_from([0, 0, 1, 63, 255, 300]))
scalars = st.sampled_from([b"0", b"-0.0", b"1e5", b"18446744073709551616", b"0.1", b"true", b"null", b"[]", b"{}"])


def quoted(text: bytes) -> bytes:
    return b'"%b"' % text


def in_list(items: list[tuple[bytes, bytes]]) -> bytes:
    return b"[" + b",".join(white + item + white for white, item in items) + b"]"


def in_object(items: list[tuple[bytes, bytes, bytes]]) -> bytes:
    return b"{" + b",".join(white + quoted(name) + white + b":" + item for white, name, item in items) + b"}"


documents = st.recursive(
    scalars | texts.map(quoted),
    lambda inner: (
        st.lists(st.tuples(whites, inner), max_size=4).map(in_list)
        | st.lists(st.tuples(whites, names, inner), max_size=4).map(in_object)
    ),
    max_leaves=8,
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = draw(documents)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["insert", "remove", "cut"])):
            case "insert":
                data = data[:at] + draw(st.sampled_from(WRONG + ATOMS)) + data[at:]
            case "remove":
                data = data[:at] + data[at + 1 :]
            case _:
                data = data[:at]
    return data


@pytest.fixture(autouse=True, scope="module")
def _small_pieces() -> Iterator[None]:
    """Pieces of 64 bytes, and every body is large: what takes megabytes otherwise."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(long_texts, "PIECE_BYTES", 64)
        patched.setattr(long_json, "LARGE_BYTES", 0)
        yield


def found(read: Any, data: bytes) -> Any:
    body = bytearray(data)
    try:
        value = read(body)
    except orjson.JSONDecodeError as error:
        return error.msg, error.pos
    assert (read is not load) or not body, "its memory is given back"
    return (whole(value) if read is load else value), canonical(value)


@given(documents | damaged())
def test_the_value_the_canonical_form_and_the_error_are_those_of_the_parser(data: bytes) -> None:
    assert found(load, data) == found(orjson.loads, data)


def inner(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from inner(each)


@given(documents)
def test_only_short_strings_and_names_are_text(data: bytes) -> None:
    for each in inner(load(data)):
        assert isinstance(each, LongText) == (isinstance(each, str) and len(each) > CHARS_MAX)


@given(st.text(min_size=CHARS_MAX + 1, max_size=3 * CHARS_MAX))
def test_a_long_text_knows_its_length_its_beginning_and_its_pieces(text: str) -> None:
    long = load(orjson.dumps(text))
    assert (len(long), long.whole(), long.beginning) == (len(text), text, text[:CHARS_MAX])
    assert "".join(long.pieces()) == text
    assert long.beginning + "".join(long.after_beginning()) == text
    assert beginnings({"a": [long, 1]}) == {"a": [text[:CHARS_MAX], 1]}


def test_a_long_text_is_not_written_in_part() -> None:
    value = load(orjson.dumps({"a": "x" * 999}))
    assert has_long_text(value)
    assert canonical(value) == orjson.dumps({"a": "x" * 999})
    with pytest.raises(TypeError):
        orjson.dumps(value)
    with pytest.raises(UnicodeEncodeError):
        value["a"].encode()


def test_a_body_with_little_text_in_long_strings_is_read_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_json, "LARGE_BYTES", 500)
    value = load(b'{"a":"' + b"x" * 999 + b'","a":"' + b"y" * 499 + b'"}')
    assert value == {"a": "y" * 499}
    assert not has_long_text(value)


def test_no_limit_of_a_text_in_a_submission_is_above_the_shortest_long_text() -> None:
    def limits(schema: Any) -> Iterator[int]:
        for each in inner(schema):
            if isinstance(each, dict) and isinstance(each.get("maxLength"), int):
                yield each["maxLength"]

    of_request = set(limits(Submit.model_json_schema()["properties"]["request"]))
    assert max(set(limits(Submit.model_json_schema())) - of_request) <= CHARS_MAX
