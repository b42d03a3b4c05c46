"""Parser of server-sent events, with a size limit for each event. Pure.

Of the format (WHATWG HTML, 9.2) only `data` is read: the provider's events have their type in it. The SDK's own decoder
accepts lines of any length, but a server's output is untrusted.
"""

from typing import Final

LINE_COST_BYTES: Final = 64
"""What each further line of an event counts beside its text."""


class EventTooLargeError(Exception):
    """An event exceeds the size limit."""


class EventReader:
    """An incremental parser: takes chunks, returns the data of complete events."""

    def __init__(self, event_bytes_max: int) -> None:
        self._bytes_max = event_bytes_max
        self._parts: list[bytes] = []
        """Of the line that has not ended."""
        self._parts_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Of the event that is not complete."""
        return self._parts_bytes + self._data_bytes

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that `chunk` completes, in order.

        :raises EventTooLargeError: an event exceeds `event_bytes_max`; the reader can't be used any more.
        """
        # The part after the last line feed may continue in the next chunk.
        lines, feed, rest = chunk.rpartition(b"\n")
        events: list[bytes] = []
        if feed:
            for line in b"".join((*self._parts, lines, feed)).splitlines():
                self._take(line, events)
            self._parts, self._parts_bytes = [], 0
        if rest:
            self._parts.append(rest)
            self._parts_bytes += len(rest)
        if self.held_bytes > self._bytes_max:
            raise EventTooLargeError
        return events

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
            self._data, self._data_bytes = [], 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            # Lines without a value need memory, too.
            self._data_bytes += len(value) + (LINE_COST_BYTES if self._data else 0)
            self._data.append(value.removeprefix(b" "))
            if self._data_bytes > self._bytes_max:
                raise EventTooLargeError
