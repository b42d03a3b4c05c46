"""Rewrites JSON schemas into the subset that client generators support. Pure.

OpenAPI 3.1 allows all of JSON Schema; generators support a part of it. They turn a `const` into code that does not
compile, a `default` of null into a required null, a bare null type into a class without a name, a bound of 64 bits into
a literal that is too large. The rewritten schemas avoid these forms; those bounds apart, they validate the same values.
"""

from typing import Any, Final

_TYPES: Final[dict[type, str]] = {bool: "boolean", int: "integer", str: "string", float: "number"}
NULL: Final = {"type": "null"}
_OF_64_BITS: Final = (("minimum", -(2**63)), ("maximum", 2**63 - 1))


def plain(schema: Any) -> Any:
    """`schema` with each `const` as an `enum` of one, without null defaults, and with `type: [T, "null"]` for a
    nullable type.
    """
    if isinstance(schema, list):
        return [plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: plain(value) for name, value in schema.items() if not (name == "default" and value is None)}
    if "const" in kept and not isinstance(kept["const"], dict):  # a dict: a property named `const`
        value = kept.pop("const")
        kept |= {"type": _TYPES[type(value)], "enum": [value]}
    for name, bound in _OF_64_BITS:
        if kept.get(name) == bound:
            del kept[name]
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
