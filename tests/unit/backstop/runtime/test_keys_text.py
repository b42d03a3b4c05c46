"""The text of a keys file is read key by key, and means what it means as JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstop.runtime.http.keys_text import members

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text()
VALUES = st.recursive(SCALARS, lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(), of, max_size=3))
FILES = st.dictionaries(st.text() | st.sampled_from(["keys", "tenants"]), VALUES, max_size=4)


@given(FILES, st.sampled_from([None, 0, 2]))
def test_the_members_are_those_of_the_text(content: dict[str, object], indent: int | None) -> None:
    found = list(members(json.dumps(content, indent=indent)))
    keys = content.get("keys")
    if isinstance(keys, list):
        assert [value for name, _, value in found if name == "keys"] == keys
    rest = {name: value for name, _, value in found if name != "keys" or not isinstance(keys, list)}
    assert rest == {name: value for name, value in content.items() if name != "keys" or not isinstance(keys, list)}
    assert [json.loads(text) for _, text, _ in found] == [value for _, _, value in found]


@pytest.mark.parametrize(
    "text",
    ["", " ", "[]", "1", "{", "{,}", "{1:2}", '{"a"}', '{"a":}', '{"a":1,}', '{"a":1 "b":2}', '{"a":1}}', '{"a":1} x',
     '{"keys":[', '{"keys":[,]}', '{"keys":[1,]}', '{"keys":[1 2]}', '{"keys":[1}', '{"keys":[NaN]}',
     '{"a":Infinity}', "\ufeff{}"],
)  # fmt: skip
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        list(members(text))
