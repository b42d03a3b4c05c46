"""Spans and instants as servers write them: `6m0s`, `7.66`, `1 minute 12 seconds`, `00:01:12`, an HTTP date, ISO 8601,
seconds or milliseconds since 1970. Pure; all functions are total.

A wait is in milliseconds. A value that is zero, negative, past or unreadable counts as absent: 0.
"""

import math
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

WAIT_MS_MAX = 7 * 86_400_000
"""The longest timeout of a job (`schemas.requests.TIMEOUT_MS_MAX`), so longer waits make no difference."""

CHARS_MAX = 64
EPOCH_S_MIN, EPOCH_S_MAX = 1_000_000_000, 4_102_444_800
"""From 2001 to 2100. A number of seconds in this range is an instant, as no wait lasts 30 years."""

_GO_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h|d)")
_GO_DURATION = re.compile(rf"(?:{_GO_PART.pattern})+")
_UNIT_MS: Final = {
    "ns": 1e-6, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1_000.0, "m": 60_000.0, "h": 3_600_000.0,
    "d": 86_400_000.0,
}  # fmt: skip

_UNIT: Final = (
    r"(?:milliseconds?|millis|msecs?|seconds?|secs?|minutes?|mins?|hours?|hrs?|days?"
    r"|(?:ms|s|m|h|d)(?![a-z]))"
)
_PART: Final = rf"[0-9]{{1,15}}(?:\.[0-9]{{1,12}})?\s?{_UNIT}(?:\(s\))?"
SPAN: Final = rf"{_PART}(?:(?:,|\s|and){{0,5}}{_PART}){{0,4}}"
"""One or more numbers with units, as in `1 minute and 12.5 seconds` or `6m0s`."""

CLOCK: Final = r"[0-9]{1,3}:[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,9})?)?(?![0-9:])"
INSTANT: Final = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?"
    r"(?:\s?(?:Z|UTC|GMT|[+\-][0-9]{2}:?[0-9]{2}))?"
)

_NUMBER_AND_UNIT: Final = re.compile(rf"([0-9]+(?:\.[0-9]+)?)\s?({_UNIT})", re.IGNORECASE)
_SPAN_ONLY: Final = re.compile(SPAN, re.IGNORECASE)
_CLOCK_ONLY: Final = re.compile(CLOCK)
_INSTANT_ONLY: Final = re.compile(INSTANT, re.IGNORECASE)


def go_duration_ms(text: str) -> int:
    """A duration in Go's format (`6m0s`, `7.66s`, `120ms`) in milliseconds, rounded up; 0 if it is none."""
    text = text.strip()
    if len(text) > CHARS_MAX or not _GO_DURATION.fullmatch(text):
        return 0
    return usable_ms(sum(float(number) * _UNIT_MS[unit] for number, unit in _GO_PART.findall(text)))


def number_ms(text: str | None, unit_ms: float) -> int:
    if text is None or len(text) > CHARS_MAX:
        return 0
    try:
        return usable_ms(float(text) * unit_ms)
    except ValueError:
        return 0


def wait_until_ms(text: str, now_ms: int, unit_ms: float = 1_000.0) -> int:
    """The wait that a value of a header or a body means, in any form.

    :param unit_ms: of a plain number, which is a wait, or an instant where no wait is that long.
    """
    text = text.partition(";")[0].strip().strip('"')
    if len(text) > CHARS_MAX:
        return 0
    try:
        number = float(text)
    except ValueError:
        return _worded_ms(text, now_ms)
    if EPOCH_S_MIN <= number < EPOCH_S_MAX:
        return usable_ms(number * 1_000 - now_ms)
    if EPOCH_S_MIN * 1_000 <= number < EPOCH_S_MAX * 1_000:
        return usable_ms(number - now_ms)
    return usable_ms(number * unit_ms) if number < EPOCH_S_MIN else 0


def _worded_ms(text: str, now_ms: int) -> int:
    if _GO_DURATION.fullmatch(text):
        return go_duration_ms(text)
    if text[:2].upper() == "PT":  # ISO 8601, of hours and less.
        return go_duration_ms(text[2:].lower())
    if _SPAN_ONLY.fullmatch(text):
        return span_ms(text)
    if _CLOCK_ONLY.fullmatch(text):
        return clock_ms(text)
    return instant_ms(text, now_ms)


def span_ms(text: str) -> int:
    """The sum of the numbers with units in a text that matches `SPAN`."""
    return usable_ms(sum(float(number) * _unit_ms(unit.lower()) for number, unit in _NUMBER_AND_UNIT.findall(text)))


def _unit_ms(unit: str) -> float:
    if unit.startswith(("mil", "ms")):
        return 1.0
    return _UNIT_MS[unit[0]]


def clock_ms(text: str) -> int:
    """`MM:SS` or `HH:MM:SS` as a span."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return usable_ms(seconds * 1_000)


def instant_ms(text: str, now_ms: int) -> int:
    """The wait until an instant in ISO 8601, or until an HTTP date. Without a zone it is UTC."""
    try:
        if _INSTANT_ONLY.fullmatch(text):
            plain = re.sub(r"\s?(?:Z|UTC|GMT)$", "+00:00", text, flags=re.IGNORECASE)
            when = datetime.fromisoformat(plain)
        else:
            when = parsedate_to_datetime(text)
        when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        return usable_ms(when.timestamp() * 1_000 - now_ms)
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0


def usable_ms(wait_ms: float) -> int:
    if math.isnan(wait_ms) or wait_ms <= 0:
        return 0
    return min(math.ceil(wait_ms), WAIT_MS_MAX) if math.isfinite(wait_ms) else 0
