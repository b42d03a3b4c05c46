"""When a consumer fetches: how long a broker may hold a fetch that finds nothing, and how soon one fetch may follow another.

aiokafka 0.14 has one fetch under way per broker, and asks for a partition whose records it has just handed out only in the next one. So
while the fetch of the other partitions is held, the next record of that partition lies there: the wait is added latency, and needs to
be short. A short wait is fifty requests a second, though, and for an idle system that is a fifth of a core. After some idle seconds all
partitions are in the fetch that is held, and a record ends the wait at once: then it may be long.

And where records come one after the other, a fetch for each costs more than the records: a small gap lets the next ones gather, and what
they cause (outputs, rows) gathers with them. A record that comes after the gap waits for nothing.
"""

# ruff: noqa: SLF001 - see FetchPace
from typing import Any

from backstop.runtime.process.clock import monotonic_s

BUSY_WAIT_MS = 20
IDLE_WAIT_MS = 500
IDLE_AFTER_S = 3.0
FETCH_GAP_MS = 5
"""From the beginning of one fetch to the beginning of the next."""


class FetchPace:
    """For one consumer. Works on private parts of aiokafka's fetcher, which is pinned and offers no way to change them later."""

    def __init__(self, busy_bytes_min: int = 1) -> None:
        """:param busy_bytes_min: while records come, let a fetch gather this many bytes, for `BUSY_WAIT_MS` at most."""
        self._busy_bytes_min = busy_bytes_min
        self._last_s = monotonic_s()
        self._spaced: Any = None

    def saw(self, consumer: Any, *, records: bool) -> None:
        """To be told after each poll of `consumer` (an `AIOKafkaConsumer` that has started) whether it brought records."""
        now_s = monotonic_s()
        if records:
            self._last_s = now_s
        fetcher = consumer._fetcher
        if fetcher is not None:
            idle = now_s - self._last_s > IDLE_AFTER_S
            fetcher._fetch_max_wait_ms = IDLE_WAIT_MS if idle else BUSY_WAIT_MS
            fetcher._fetch_min_bytes = 1 if idle else self._busy_bytes_min
            if fetcher is not self._spaced:
                self._spaced = fetcher
                _space_out(fetcher)


def _space_out(fetcher: Any) -> None:
    """Let `fetcher` begin a fetch no sooner than `FETCH_GAP_MS` after the one before it. Its routine looks again when that is over."""
    actions, next_s = fetcher._get_actions_per_node, 0.0

    def spaced(assignment: Any) -> Any:
        nonlocal next_s
        fetches, resets, timeout_s, *others = actions(assignment)
        if fetches:
            early_s = next_s - monotonic_s()
            if early_s > 0:
                return [], resets, min(timeout_s, early_s), *others
            next_s = monotonic_s() + FETCH_GAP_MS / 1000
        return fetches, resets, timeout_s, *others

    fetcher._get_actions_per_node = spaced
