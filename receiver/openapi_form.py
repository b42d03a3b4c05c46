"""JSON schemas in the form that generators of clients understand. Pure.

OpenAPI 3.1 has all of JSON Schema, and generators have a part of it: a `const` becomes code that does not compile, a `default` of null a required
null, a bare null type a class without a name. The same is said here without them, so that validators see no difference.
"""

from typing import Any, Final

_TYPES: Final[dict[type, str]] = {bool: "boolean", int: "integer", str: "string", float: "number"}
NULL: Final = {"type": "null"}


def plain(schema: Any) -> Any:
    """`schema` with an `enum` of one for each `const`, without defaults of null, and with null as one of two types."""
    if isinstance(schema, list):
        return [plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: plain(value) for name, value in schema.items() if not (name == "default" and value is None)}
    if "const" in kept and not isinstance(kept["const"], dict):  # a property may be called so
        value = kept.pop("const")
        kept |= {"type": _TYPES[type(value)], "enum": [value]}
    choices = kept.get("anyOf")
    if (
        isinstance(choices, list)
        and len(choices) == 2
        and choices[1] == NULL
        and isinstance(choices[0].get("type"), str)
    ):
        (choice, _null) = kept.pop("anyOf")
        kept |= choice | {"type": [choice["type"], "null"]}
    return kept
