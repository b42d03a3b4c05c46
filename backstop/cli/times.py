"""PURE: points in time as typed on a command line."""

import re
from datetime import UTC, datetime

from backstop.runtime.errors import ConfigurationError

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


def point_in_time(text: str, now_ms: int) -> int:
    """Unix milliseconds of `2026-05-01T12:30:00Z` (UTC where it names no zone), of `1767225600000`, or of `90s`, `5m`,
    `2h`, `1d` ago.

    :raises ConfigurationError: the text is none of these.
    """
    given = text.strip()
    ago = _AGO.fullmatch(given)
    if ago is not None:
        return now_ms - round(float(ago[1]) * _UNITS_MS[ago[2]])
    if given.isdigit():
        return int(given)
    try:
        when = datetime.fromisoformat(given)
    except ValueError:
        raise ConfigurationError(
            f"{given!r} is not a time: give 2026-05-01T12:30:00Z, unix milliseconds, or how long ago: 90s, 5m, 2h, 1d"
        ) from None
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


def span_ms(text: str) -> int:
    """Milliseconds of `90s`, `5m`, `2h`, `1d`.

    :raises ConfigurationError: the text is none of these, or no time at all.
    """
    given = _AGO.fullmatch(text.strip())
    span = round(float(given[1]) * _UNITS_MS[given[2]]) if given else 0
    if span <= 0:
        raise ConfigurationError(f"{text!r} is not a length of time: give 90s, 5m, 2h or 1d")
    return span


def time_ahead(text: str, now_ms: int) -> int:
    """As `point_in_time`, where `90s`, `5m`, `2h`, `1d` are that long from now.

    :raises ConfigurationError: the text is none of these.
    """
    if _AGO.fullmatch(text.strip()):
        return 2 * now_ms - point_in_time(text, now_ms)
    return point_in_time(text, now_ms)
