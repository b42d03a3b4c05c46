"""The wait that an answer of the provider asks for: `retry-after` in all its forms, and reset headers of rate limits.
Pure.

A wait is a minimum, in milliseconds. A value that is zero, negative, past or unreadable counts as absent: 0. All
functions are total.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

WAIT_MS_MAX = 7 * 86_400_000
"""The longest timeout of a job (`schemas.requests.TIMEOUT_MS_MAX`), so longer waits make no difference."""

HEADER_CHARS_MAX = 64
_GO_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h|d)")
_GO_DURATION = re.compile(rf"(?:{_GO_PART.pattern})+")
_UNIT_MS = {
    "ns": 1e-6,
    "us": 1e-3,
    "µs": 1e-3,
    "μs": 1e-3,
    "ms": 1.0,
    "s": 1_000.0,
    "m": 60_000.0,
    "h": 3_600_000.0,
    "d": 86_400_000.0,
}
_IN_TEXT = re.compile(
    r"(?:try again|retry|wait|available)\s*(?:again\s*)?(?:in|after|for)?\s*(?:about\s*)?"
    r"((?:[0-9]+(?:\.[0-9]+)?)\s*(?:milliseconds?|seconds?|minutes?|hours?|secs?|mins?|ms|s|m|h|d)\b"
    r"|(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+)", re.IGNORECASE,
)  # fmt: skip
_WORDED = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(milliseconds?|seconds?|minutes?|hours?|secs?|mins?)", re.IGNORECASE)
_WORDED_UNIT_MS = {"mil": 1.0, "sec": 1_000.0, "min": 60_000.0, "hou": 3_600_000.0}
_LIMITS = ("requests", "tokens", "project-tokens")


def go_duration_ms(text: str) -> int:
    """A duration in Go's format (`6m0s`, `7.66s`, `120ms`) in milliseconds, rounded up; 0 if it is none."""
    text = text.strip()
    if len(text) > HEADER_CHARS_MAX or not _GO_DURATION.fullmatch(text):
        return 0
    return _usable_ms(sum(float(number) * _UNIT_MS[unit] for number, unit in _GO_PART.findall(text)))


def text_wait_ms(text: str) -> int:
    """The wait in a message: "Please try again in 20s", "retry after 26 seconds", "try again in 1d2h3m"; 0 if none."""
    found = _IN_TEXT.search(text)
    if found is None:
        return 0
    worded = _WORDED.fullmatch(found[1])
    if worded is not None:
        return _usable_ms(float(worded[1]) * _WORDED_UNIT_MS[worded[2][:3].lower()])
    return go_duration_ms(found[1].lower().replace(" ", ""))


def retry_after_ms(headers: Mapping[str, str], now_ms: int) -> int:
    """The wait of `retry-after-ms`, else of `retry-after` (seconds, perhaps with a fraction, or an HTTP date).

    Header names must be in lower case.
    """
    return _number_ms(headers.get("retry-after-ms"), 1.0) or _after_ms(headers.get("retry-after"), now_ms)


def limit_reset_ms(headers: Mapping[str, str], exhausted: str | None) -> int:
    """The time until the exhausted limits are reset.

    :param exhausted: the limit that the error named (`requests`, `tokens`). Other values: all limits with 0 remaining.
    """
    if exhausted in ("requests", "tokens"):
        names = [name for name in _LIMITS if name.endswith(exhausted) and (name == exhausted or _spent(headers, name))]
    else:
        names = [name for name in _LIMITS if _spent(headers, name)]
    return max((go_duration_ms(headers.get(f"x-ratelimit-reset-{name}", "")) for name in names), default=0)


def poll_after_ms(headers: Mapping[str, str]) -> int:
    """The minimum time until the next poll (`openai-poll-after-ms`); 0 if the answer has none."""
    return _number_ms(headers.get("openai-poll-after-ms"), 1.0)


def _spent(headers: Mapping[str, str], name: str) -> bool:
    return headers.get(f"x-ratelimit-remaining-{name}", "").strip() == "0"


def _number_ms(text: str | None, unit_ms: float) -> int:
    if text is None or len(text) > HEADER_CHARS_MAX:
        return 0
    try:
        return _usable_ms(float(text) * unit_ms)
    except ValueError:
        return 0


def _after_ms(text: str | None, now_ms: int) -> int:
    if text is None or len(text) > HEADER_CHARS_MAX:
        return 0
    seconds_ms = _number_ms(text, 1_000.0)
    if seconds_ms:
        return seconds_ms
    try:
        when = parsedate_to_datetime(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return _usable_ms(when.timestamp() * 1_000 - now_ms)
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0


def _usable_ms(wait_ms: float) -> int:
    if math.isnan(wait_ms) or wait_ms <= 0:
        return 0
    return min(math.ceil(wait_ms), WAIT_MS_MAX) if math.isfinite(wait_ms) else 0
