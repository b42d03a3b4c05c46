"""The wait that an answer of the provider asks for, in its headers, in members of its body, or in its words. Pure.

A wait is a minimum, in milliseconds. A value that is zero, negative, past or unreadable counts as absent: 0. All
functions are total. How single values are written: `durations`. Header names must be in lower case.

Sources: RFC 9110 (Retry-After), the IETF draft on RateLimit fields, the headers of OpenAI, Azure, Anthropic and
OpenRouter, google.rpc.RetryInfo, and messages in public reports of gateways.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from streams.openai.durations import (
    CLOCK,
    INSTANT,
    SPAN,
    clock_ms,
    instant_ms,
    number_ms,
    span_ms,
    wait_until_ms,
)

_CUE: Final = (
    r"(?:try(?:ing)?(?: your request)? again|retry(?:ing)?(?:[_ -]after(?:[_ -]seconds)?|[_ -]in)?|wait(?:ing)?"
    r"|available|resets?|come back|back ?off)"
)
_FILLER: Final = (
    r"(?:(?:[\s:=~≈,\"'(]|\b(?:again|later|in|after|for|at|until|on|is|be|will|your|the|this|request|requests|about"
    r"|approximately|around|another|least|time|next)\b){0,12})"
)
_IN_TEXT: Final = re.compile(
    rf"\b{_CUE}{_FILLER}(?:(?P<instant>{INSTANT})|(?P<clock>{CLOCK})|(?P<span>{SPAN}))", re.IGNORECASE
)
_BARE: Final = re.compile(
    r"\bretry[_ -]?after(?:[_ -]seconds)?[\s:=\"']{1,4}([0-9]{1,6}(?:\.[0-9]{1,6})?)(?![\w.]|\s?[a-z%])", re.IGNORECASE
)
"""A number without a unit means seconds, only right behind these words."""

TEXT_CHARS_MAX: Final = 2_000

_UNIT_MS_OF_MEMBER: Final = {
    "retryafter": 1_000.0, "retryafterseconds": 1_000.0, "retryaftersecs": 1_000.0, "retryafters": 1_000.0,
    "retryafterms": 1.0, "retryaftermillis": 1.0, "retryaftermilliseconds": 1.0, "retrydelay": 1_000.0,
    "retrydelayms": 1.0, "retryin": 1_000.0, "retryinseconds": 1_000.0, "retryinms": 1.0, "retryat": 1_000.0,
    "waitseconds": 1_000.0, "waitms": 1.0, "resetsinseconds": 1_000.0, "resetinseconds": 1_000.0, "resetin": 1_000.0,
    "resetsin": 1_000.0, "resetsat": 1_000.0, "resetat": 1_000.0, "xratelimitreset": 1_000.0,
    "ratelimitreset": 1_000.0,
}  # fmt: skip
"""Members of an error that tell a wait or an instant, in small letters without marks: the unit of a plain number."""

DEPTH_MAX: Final = 5
MEMBERS_MAX: Final = 64

_RESET: Final = re.compile(r"(?:x-|anthropic-)?rate-?limit-(?:(?P<before>[a-z\-]+)-)?reset(?:-(?P<behind>[a-z\-]+))?")
_LIMIT_ITEM: Final = re.compile(r"(?<![a-z])r\s?=\s?0\b.{0,40}?(?<![a-z])t\s?=\s?([0-9]{1,9})", re.IGNORECASE)


def text_wait_ms(text: str, now_ms: int) -> int:
    """The wait in a message: "Please try again in 20s", "retry after 26 seconds", "resets at 2026-11-29T20:00:00Z"; 0
    if none.
    """
    text = text[:TEXT_CHARS_MAX]
    found = _IN_TEXT.search(text)
    if found is None:
        bare = _BARE.search(text)
        return number_ms(bare[1], 1_000.0) if bare is not None else 0
    if found["instant"]:
        return instant_ms(found["instant"], now_ms)
    return clock_ms(found["clock"]) if found["clock"] else span_ms(found["span"])


def body_wait_ms(body: Any, now_ms: int) -> int:
    """The wait that a member of an error names (`retry_after`, `retryDelay`, `resets_at`, …); 0 if none."""
    return max(_told_by(body, now_ms, DEPTH_MAX), default=0)


def _told_by(value: Any, now_ms: int, depth: int) -> Iterator[int]:
    if depth and isinstance(value, list):
        for item in value[:MEMBERS_MAX]:
            yield from _told_by(item, now_ms, depth - 1)
    if not depth or not isinstance(value, dict):
        return
    for name, item in [*value.items()][:MEMBERS_MAX]:
        unit_ms = _UNIT_MS_OF_MEMBER.get(re.sub(r"[^a-z]", "", name.lower())) if isinstance(name, str) else None
        if unit_ms is None:
            yield from _told_by(item, now_ms, depth - 1)
        elif isinstance(item, str | int | float) and not isinstance(item, bool):
            yield wait_until_ms(str(item), now_ms, unit_ms)


def retry_after_ms(headers: Mapping[str, str], now_ms: int) -> int:
    """The wait of `retry-after-ms`, else of `retry-after`: seconds, a date, or one of the forms that servers invent."""
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        if wait_ms := number_ms(headers.get(name), 1.0):
            return wait_ms
    return _header_ms(headers.get("retry-after"), now_ms)


def _header_ms(value: str | None, now_ms: int) -> int:
    """The wait of a header's value. Of a header that was sent twice, the longest counts."""
    if value is None:
        return 0
    return wait_until_ms(value, now_ms) or max(wait_until_ms(part, now_ms) for part in value[:256].split(","))


def limit_reset_ms(headers: Mapping[str, str], exhausted: str | None, now_ms: int) -> int:
    """The time until the exhausted limits are reset.

    A limit is exhausted if its remainder is 0, or if the error named it. A reset without a remainder counts, too, if it
    is not that of one of several limits.

    :param exhausted: the limit that the error named (`requests`, `tokens`).
    """
    named = exhausted if exhausted in ("requests", "tokens") else None
    waits_ms = [0]
    for name, value in headers.items():
        found = _RESET.fullmatch(name)
        if found is not None and _counts(headers, name, found["before"] or found["behind"], named):
            waits_ms.append(_header_ms(value, now_ms))
        elif name in ("ratelimit", "x-ratelimit"):
            waits_ms += [number_ms(seconds, 1_000.0) for seconds in _LIMIT_ITEM.findall(value[:256])]
    return max(waits_ms)


def _counts(headers: Mapping[str, str], name: str, limit: str | None, named: str | None) -> bool:
    left = headers.get(name.replace("reset", "remaining"), "").strip()
    if named is not None and limit is not None:
        return limit.endswith(named) and (limit == named or left == "0")
    return left == "0" or (left == "" and limit is None)


def poll_after_ms(headers: Mapping[str, str]) -> int:
    """The minimum time until the next poll (`openai-poll-after-ms`); 0 if the answer has none."""
    return number_ms(headers.get("openai-poll-after-ms"), 1.0)
