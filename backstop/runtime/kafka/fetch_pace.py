"""The pace of a consumer's fetches: how long a broker may hold an empty fetch, and the gap between two fetches.

aiokafka 0.14 keeps one fetch per broker in flight. A partition whose records it has just handed out joins only the next
fetch, so while the current one is held, that partition's next record waits at the broker: the hold adds latency and
must be short. But a short hold means fifty requests a second, which costs an idle system a fifth of a core. After
`IDLE_AFTER_S` without records all partitions are in the held fetch, and a record ends it at once: then the hold may be
long.

Under a steady flow, one fetch per record costs more than the record. A gap of `FETCH_GAP_MS` between fetches lets
records, and the outputs and rows they cause, form batches. A record that arrives after the gap is fetched at once.
"""

# ruff: noqa: SLF001 - see FetchPace
from typing import Any

from backstop.runtime.process.clock import monotonic_s

BUSY_WAIT_MS = 20
IDLE_WAIT_MS = 500
IDLE_AFTER_S = 3.0
FETCH_GAP_MS = 5
"""From the start of one fetch to the start of the next."""


class FetchPace:
    """For one consumer. Changes private parts of aiokafka's fetcher: the
    version is pinned, and it has no public way to do so.
    """

    def __init__(self, busy_bytes_min: int = 1) -> None:
        """:param busy_bytes_min: while records arrive, a fetch waits
        for this many bytes, for `BUSY_WAIT_MS` at most.
        """
        self._busy_bytes_min = busy_bytes_min
        self._last_s = monotonic_s()
        self._spaced: Any = None

    def saw(self, consumer: Any, *, records: bool) -> None:
        """Call after each poll of `consumer` (a started
        `AIOKafkaConsumer`); `records`: whether the poll returned any.
        """
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
    """Start a fetch at least `FETCH_GAP_MS` after the previous one. An
    earlier attempt returns no fetches and the time left.
    """
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
