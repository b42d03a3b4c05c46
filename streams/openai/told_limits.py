"""What the headers of an answer tell of rate limits (`x-ratelimit-{limit,remaining}-{requests,tokens,project-tokens}`).
Pure.

A value that is not a whole number of a sensible size counts as absent, as does a limit of zero. Of the limits of an
organization and of its project the lower one counts, and so does the lower remainder. All functions are total.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from schemas.told_limits import ToldLimits

DIGITS_MAX: Final = 13
_TOKENS: Final = ("tokens", "project-tokens")


def told_limits(headers: Mapping[str, str]) -> ToldLimits | None:
    """None if the headers tell nothing. Header names must be in lower case."""
    requests, requests_left = _number(headers, "limit", "requests"), _number(headers, "remaining", "requests")
    told = ToldLimits(
        requests_per_min=requests or None,
        requests_left=requests_left,
        tokens_per_min=min((limit for limit in _numbers(headers, "limit") if limit), default=None),
        tokens_left=min(_numbers(headers, "remaining"), default=None),
    )
    return None if told == _NOTHING else told


_NOTHING: Final = ToldLimits()


def _numbers(headers: Mapping[str, str], what: str) -> Iterator[int]:
    return (number for name in _TOKENS if (number := _number(headers, what, name)) is not None)


def _number(headers: Mapping[str, str], what: str, name: str) -> int | None:
    text = headers.get(f"x-ratelimit-{what}-{name}", "").strip()
    return int(text) if 0 < len(text) <= DIGITS_MAX and text.isascii() and text.isdigit() else None
