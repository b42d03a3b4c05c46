"""Server-sent events out of bytes, with a bound on each. Pure.

Of the format (WHATWG HTML, 9.2) only `data` is read: the provider's events name their type within it. The SDK's own decoder keeps a
line of any length, and what a server sends is untrusted input.
"""


class EventTooLargeError(Exception):
    """An event is larger than may be held."""


class EventReader:
    """Feed it what comes; it gives the data of each event that is complete."""

    def __init__(self, event_bytes_max: int) -> None:
        self._bytes_max = event_bytes_max
        self._rest = b""
        self._data: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that `chunk` completes, in order.

        :raises EventTooLargeError: one is larger than `event_bytes_max`; nothing can be read on.
        """
        # What follows the last line feed may go on in the next chunk.
        lines, feed, self._rest = (self._rest + chunk).rpartition(b"\n")
        events: list[bytes] = []
        if feed:
            for line in (lines + feed).splitlines():
                self._take(line, events)
        if self._held + len(self._rest) > self._bytes_max:
            raise EventTooLargeError
        return events

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
            self._data, self._held = [], 0
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._held += len(value)
            if self._held > self._bytes_max:
                raise EventTooLargeError
