"""How long a broker may hold a fetch that finds nothing: short while records come, long while none do.

aiokafka 0.14 has one fetch under way per broker, and asks for a partition whose records it has just handed out only in the next one. So
while the fetch of the other partitions is held, the next record of that partition lies there: the wait is added latency, and needs to
be short. A short wait is fifty requests a second, though, and for an idle system that is a fifth of a core. After some idle seconds all
partitions are in the fetch that is held, and a record ends the wait at once: then it may be long.
"""

from typing import Any

from runtime.clock import monotonic_s

BUSY_WAIT_MS = 20
IDLE_WAIT_MS = 500
IDLE_AFTER_S = 3.0


class FetchPace:
    """For one consumer. Works on private fields of aiokafka's fetcher, which reads them for each request."""

    def __init__(self, busy_bytes_min: int = 1) -> None:
        """:param busy_bytes_min: while records come, let a fetch gather this many bytes, for `BUSY_WAIT_MS` at most."""
        self._busy_bytes_min = busy_bytes_min
        self._last_s = monotonic_s()

    def saw(self, consumer: Any, *, records: bool) -> None:
        """To be told after each poll of `consumer` (an `AIOKafkaConsumer` that has started) whether it brought records."""
        now_s = monotonic_s()
        if records:
            self._last_s = now_s
        fetcher = consumer._fetcher  # noqa: SLF001 - aiokafka is pinned, and offers no way to change it later
        if fetcher is not None:
            idle = now_s - self._last_s > IDLE_AFTER_S
            fetcher._fetch_max_wait_ms = IDLE_WAIT_MS if idle else BUSY_WAIT_MS  # noqa: SLF001
            fetcher._fetch_min_bytes = 1 if idle else self._busy_bytes_min  # noqa: SLF001
