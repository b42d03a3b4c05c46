"""Which events of a provider's stream are published, in which order, and where the stream ends. Pure.

Rules, before the code:
- Numbers (`sequence_number`) rise. An event whose number was published already is a repeat, and is dropped.
- A gap in the numbers first counts as disorder: the stream is opened again after the last published number. If the same
  number comes again, the provider counts with gaps: it is published, and later gaps in this stream are accepted, too.
- An event without a usable type and number is dropped. An `error` event is about the connection, not the response: the
  stream is opened again.
- The size of an event, and of all events of a response, is limited. An event beyond a limit ends the partial output,
  with the reason.
"""

from typing import Any

from schemas.partials import END_EVENTS, LIFECYCLE_EVENTS
from streams.provider import Dropped, OpenAgain, StreamEnded, StreamStep, Told, TooMuch

NUMBER_MAX = 1 << 53


class Track:
    """The position in one response's stream. `last` is the number of the last published event; -1 before the first."""

    def __init__(self, event_bytes_max: int, response_bytes_max: int) -> None:
        self.last = -1
        self._event_bytes_max = event_bytes_max
        self._bytes_left = response_bytes_max
        self._doubted: int | None = None
        """The number after a gap for which the stream was last opened again."""
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
        return StreamEnded(number) if kind in END_EVENTS else self._tell(kind, number, event, size_bytes)

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
    """Type and number of an event; None if it has no usable ones."""
    if not isinstance(event, dict):
        return None
    kind, number = event.get("type"), event.get("sequence_number")
    if not isinstance(kind, str) or not isinstance(number, int) or isinstance(number, bool):
        return None
    return (kind, number) if 0 <= number <= NUMBER_MAX else None
