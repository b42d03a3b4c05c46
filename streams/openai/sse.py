"""Parser of server-sent events, with a size limit for each event. Pure.

Of the format (WHATWG HTML, 9.2) only `data` is read: the provider's events have their type in it. The SDK's own decoder
accepts lines of any length, but a server's output is untrusted.
"""


class EventTooLargeError(Exception):
    """An event exceeds the size limit."""


class EventReader:
    """An incremental parser: takes chunks, returns the data of complete events."""

    def __init__(self, event_bytes_max: int) -> None:
        self._bytes_max = event_bytes_max
        self._rest = b""
        self._data: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that `chunk` completes, in order.

        :raises EventTooLargeError: an event exceeds `event_bytes_max`; the reader can't be used any more.
        """
        # The part after the last line feed may continue in the next chunk.
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
