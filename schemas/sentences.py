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

NAME: Final = re.compile(r"[a-z][a-z0-9_.]{0,39}")
"""What looks like a name of ours. Other text may be confidential, and is not quoted."""


def sentence(problem: Mapping[str, Any]) -> str:
    """The sentence for one item of `ValidationError.errors()`."""
    if problem.get("type") in _BY_TYPE:
        return _BY_TYPE[problem["type"]]
    told = problem.get("ctx") or {}  # Most callers leave it out.
    if problem.get("type") == "union_tag_not_found":
        return f"its {_field(told)} is missing, or no text"
    if problem.get("type") == "union_tag_invalid":
        return _of_no_kind(told)
    text = str(problem["msg"])
    for theirs, ours in _WORDS:
        if text.startswith(theirs):
            return ours + text.removeprefix(theirs)
    return text


def _field(told: Mapping[str, Any]) -> str:
    """The field that tells the kind of a value."""
    return "`{}`".format(str(told.get("discriminator", "type")).strip("'"))


def _of_no_kind(told: Mapping[str, Any]) -> str:
    """Of a value whose field names none of the kinds."""
    tag, kinds = told.get("tag"), told.get("expected_tags")
    given = f" is {tag!r} and" if isinstance(tag, str) and NAME.fullmatch(tag) else ""
    return f"its {_field(told)}{given} must be one {f'of {kinds}' if kinds else 'that is known here'}"
