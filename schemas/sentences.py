"""pydantic's validation errors as short sentences for users. Pure."""

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


def sentence(problem: Mapping[str, Any]) -> str:
    """The sentence for one item of `ValidationError.errors()`."""
    if problem.get("type") in _BY_TYPE:
        return _BY_TYPE[problem["type"]]
    text = str(problem["msg"])
    for theirs, ours in _WORDS:
        if text.startswith(theirs):
            return ours + text.removeprefix(theirs)
    return text
