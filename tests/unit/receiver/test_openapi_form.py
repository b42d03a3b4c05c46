"""The document has the form that client generators support; tests/clients compile and call the generated clients."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from backstop.cli.openapi_page import page
from receiver.openapi_form import plain


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"const": "job"}, {"type": "string", "enum": ["job"]}),
        ({"const": True, "title": "Deleted"}, {"title": "Deleted", "type": "boolean", "enum": [True]}),
        ({"properties": {"const": {"type": "string"}}}, {"properties": {"const": {"type": "string"}}}),
        (
            {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}], "default": None, "title": "T"},
            {"title": "T", "type": ["integer", "null"], "minimum": 0},
        ),
        ({"default": 0}, {"default": 0}),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, {"type": "integer"}),
        ({"type": "integer", "minimum": 1, "maximum": 2**48}, {"type": "integer", "minimum": 1, "maximum": 2**48}),
        ([{"anyOf": [{"type": "null"}]}], [{"anyOf": [{"type": "null"}]}]),
    ],
)
def test_the_same_is_said_without_what_generators_do_not_know(schema: Any, expected: Any) -> None:
    assert plain(schema) == expected


def test_the_document_holds_nothing_that_generators_do_not_know() -> None:
    for place, schema in schemas(orjson.loads(page()), "#"):
        assert "const" not in schema, place
        assert schema.get("type") != "null", place
        assert schema.get("default", ...) is not None, place
        assert not any("anyOf" in part for part in schema.get("allOf", ())), place


def schemas(node: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        yield place, node
        for name, value in node.items():
            yield from schemas(value, f"{place}/{name}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from schemas(value, f"{place}/{index}")
