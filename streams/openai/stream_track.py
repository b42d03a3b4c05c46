"""What is told of a provider's stream: which events, in which order, and where it ends. Pure.

Rules, before the code:
- Numbers (`sequence_number`) rise. A number that was told already is a repeat, and is dropped.
- A number that leaves others out is first taken for disorder: the stream is opened again after the last number told. If the same
  comes again it is the provider's way to count, and is told, as is whatever else it leaves out from then on.
- An event without a usable type and number is dropped. An `error` event is not the response's: the stream is opened again.
- What is told of one response, and in one event, has a bound. Beyond it this is said, and nothing more is told.
"""

from typing import Any

from schemas.partials import END_EVENTS, LIFECYCLE_EVENTS
from streams.provider import Dropped, Ended, OpenAgain, StreamStep, Told, TooMuch

NUMBER_MAX = 1 << 53


class Track:
    """Where one response's stream is. `last` is the number of the last event told, -1 before the first."""

    def __init__(self, event_bytes_max: int, response_bytes_max: int) -> None:
        self.last = -1
        self._event_bytes_max = event_bytes_max
        self._bytes_left = response_bytes_max
        self._doubted: int | None = None
        """The number that came where another was expected, the last time that we opened the stream again for it."""
        self._sparse = False

    def take(self, event: Any, size_bytes: int) -> StreamStep:
        """What to do about the next event of the stream; `event` is any JSON. Told events count as published."""
        if isinstance(event, dict) and event.get("type") == "error":
            return OpenAgain("error_event")
        named = _named(event)
        if named is None:
            return Dropped("unreadable")
        kind, number = named
        if number <= self.last:
            return Dropped("repeat")
        if number > self.last + 1 and not self._sparse:
            if self._doubted != number:
                self._doubted = number
                return OpenAgain("disorder")
            self._sparse = True
        return Ended(number) if kind in END_EVENTS else self._tell(kind, number, event, size_bytes)

    def _tell(self, kind: str, number: int, event: dict[str, Any], size_bytes: int) -> Told | TooMuch:
        if kind in LIFECYCLE_EVENTS:
            event, size_bytes = {"type": kind, "sequence_number": number}, 0
        if size_bytes > self._event_bytes_max:
            return TooMuch("event_too_large")
        if size_bytes > self._bytes_left:
            return TooMuch("response_too_large")
        self._bytes_left -= size_bytes
        self.last = number
        return Told(event, size_bytes)


def _named(event: Any) -> tuple[str, int] | None:
    """Type and number of an event; None where it has no usable ones."""
    if not isinstance(event, dict):
        return None
    kind, number = event.get("type"), event.get("sequence_number")
    if not isinstance(kind, str) or not isinstance(number, int) or isinstance(number, bool):
        return None
    return (kind, number) if 0 <= number <= NUMBER_MAX else None
