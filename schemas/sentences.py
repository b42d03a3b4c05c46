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


def sentence(problem: Mapping[str, Any]) -> str:
    """The sentence for one item of `ValidationError.errors()`."""
    text = str(problem["msg"])
    for theirs, ours in _WORDS:
        if text.startswith(theirs):
            return ours + text.removeprefix(theirs)
    return text
