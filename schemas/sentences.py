"""pydantic's validation errors as short sentences for users. Pure."""

import re
from collections.abc import Mapping
from typing import Any, Final

_WORDS: Final = (
    ("Value error, ", ""),
    ("Assertion failed, ", ""),
    ("Input should be ", "must be "),
    ("Extra inputs are not permitted", "is not known here; leave it out"),
    ("Field required", "is missing"),
)

_BY_TYPE: Final = {
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
}
"""A body is JSON: these types are pydantic's, whose sentences name classes of the code."""

_TAG: Final = re.compile(r"[a-z][a-z0-9_.]{0,39}")
"""What looks like the name of a kind. Other text may be confidential, and is not quoted."""


def sentence(problem: Mapping[str, Any]) -> str:
    """The sentence for one item of `ValidationError.errors()`."""
    if problem.get("type") in _BY_TYPE:
        return _BY_TYPE[problem["type"]]
    if str(problem.get("type")).startswith("union_tag_"):
        return _of_no_kind(problem.get("ctx") or {})
    text = str(problem["msg"])
    for theirs, ours in _WORDS:
        if text.startswith(theirs):
            return ours + text.removeprefix(theirs)
    return text


def _of_no_kind(told: Mapping[str, Any]) -> str:
    """Of a value whose kind is told by one of its fields, which is missing or names none of the kinds."""
    name = str(told.get("discriminator", "'type'")).strip("'")
    tag, kinds = told.get("tag"), told.get("expected_tags")
    if kinds is None:
        return f"its `{name}` is missing, or no text"
    given = f"its `{name}` is {tag!r} and" if isinstance(tag, str) and _TAG.fullmatch(tag) else f"its `{name}`"
    return f"{given} must be one of {kinds}"
