"""The pace of a consumer's fetches: how long a broker may hold an empty fetch, and the gap between two fetches.

aiokafka 0.14 keeps one fetch per broker in flight. A partition whose records it has just handed out joins only the next
fetch, so while the current one is held, that partition's next record waits at the broker: the hold adds latency and
must be short. But a short hold means fifty requests a second, which costs an idle system a fifth of a core. After
`IDLE_AFTER_S` without records all partitions are in the held fetch, and a record ends it at once: then the hold may be
long.

Under a steady flow, one fetch per record costs more than the record. A gap of `FETCH_GAP_MS` between fetches lets
records, and the outputs and rows they cause, form batches. A record that arrives after the gap is fetched at once.

A `GatheringPace` has no short holds but where they are needed: during the gap the reader hands out what the last fetch
brought, so the next one has all partitions, and may be held. A record that comes alone is fetched at once. With a
longer gap, many records cost few fetches.
"""

# ruff: noqa: SLF001 - see FetchWait
import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from backstop.runtime.process.clock import monotonic_s

BUSY_WAIT_MS = 20
IDLE_WAIT_MS = 1_000
"""A partition that is assigned, sought or resumed meanwhile waits for so long, as its broker answers one request of a
connection after the other. Each fetch costs an idle process four turns of its loop."""
IDLE_AFTER_S = 3.0
HOLD_MS = 100
"""Of a reader whose partitions may be assigned, sought or resumed at any time: until the held fetch ends, they wait.
When it is idle a hold is as long as any idle reader's: ten fetches a second took a third of an idle worker's time."""
FETCH_GAP_MS = 5
"""From the start of one fetch to the start of the next."""

LOOK_AGAIN_S = 1.0
"""aiokafka walks through all partitions after this time without an event, although each change of them is an event."""


async def records_come(fetcher: Any, within_s: float) -> None:
    """Return when the fetcher has records, or was woken, or after `within_s`. Raises a fatal error of the group
    coordinator.
    """
    waiter = fetcher._create_fetch_waiter()
    await asyncio.wait([waiter], timeout=within_s)
    if waiter.done():
        waiter.result()
    else:
        waiter.cancel()


class FetchWait:
    """For one consumer. Changes private parts of aiokafka's fetcher: the
    version is pinned, and it has no public way to do so.
    """

    gap_ms = FETCH_GAP_MS

    def __init__(self) -> None:
        self._last_s = monotonic_s()
        self._spaced: Any = None

    @property
    def idle(self) -> bool:
        return monotonic_s() - self._last_s > IDLE_AFTER_S

    def saw(self, consumer: Any, *, records: bool) -> None:
        """Call after each poll of `consumer` (a started
        `AIOKafkaConsumer`); `records`: whether the poll returned any.
        """
        if records:
            self._last_s = monotonic_s()
        fetcher = consumer._fetcher
        if fetcher is not None:
            fetcher._fetch_max_wait_ms = IDLE_WAIT_MS if self.idle else BUSY_WAIT_MS
            if fetcher is not self._spaced:
                self._spaced = fetcher
                fetcher._fetcher_timeout = LOOK_AGAIN_S
                self._space_out(fetcher)

    def _space_out(self, fetcher: Any) -> None:
        """Start a fetch at least `gap_ms` after the previous one. An
        earlier attempt returns no fetches and the time left.
        """
        actions, next_s = fetcher._get_actions_per_node, 0.0

        def spaced(assignment: Any) -> Any:
            nonlocal next_s
            early_s = next_s - monotonic_s()
            if early_s > 0:
                return [], {}, early_s, False, []
            found = actions(assignment)
            if found[0]:
                next_s = monotonic_s() + self.gap_ms / 1000
                self.starts(fetcher, found[0], assignment)
            return found

        fetcher._get_actions_per_node = spaced

    def starts(self, fetcher: Any, fetches: Any, assignment: Any) -> None:
        """`fetches` (pairs of a node and aiokafka's request) are about to be sent."""


def unpaused(assignment: Any) -> Iterable[Any]:
    """For `GatheringPace`: the partitions that are fetched now. One that is resumed may wait for the held fetch."""
    return (tp for tp in assignment.tps if not assignment.state_value(tp).paused)


class GatheringPace(FetchWait):
    """For a reader that takes all records as they come, and may have them `gap_ms` later for fewer fetches."""

    def __init__(
        self, gap_ms: int, hold_ms: int = IDLE_WAIT_MS, of: Callable[[Any], Iterable[Any]] = lambda a: a.tps
    ) -> None:
        """:param hold_ms: the longest hold of an empty fetch, `IDLE_WAIT_MS` at least when the reader is idle. A
            partition that is assigned or sought meanwhile may wait for so long.
        :param of: the partitions that a held fetch must have, of aiokafka's assignment.
        """
        super().__init__()
        self.gap_ms = gap_ms
        self._hold_ms = hold_ms
        self._of = of

    def starts(self, fetcher: Any, fetches: Any, assignment: Any) -> None:
        """A fetch that leaves out a partition (its records are not taken yet, or it is paused) must end soon."""
        here = Counter(map(fetcher._select_read_replica, self._of(assignment)))
        hold_ms = max(self._hold_ms, IDLE_WAIT_MS) if self.idle else self._hold_ms
        for node, request in fetches:
            if sum(len(partitions) for _, partitions in request.topics) == here[node]:
                request._max_wait_ms = hold_ms
