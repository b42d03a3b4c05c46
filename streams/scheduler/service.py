"""Writes time into a log: a `TimerFired` when a key is due. The fold decides what the timer means.

The scheduler stores nothing: due times are in the rows, so a restart or a rebalance loses no timer. The fold ignores a
timer that is written twice, for example by a former owner of the partition.
"""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress

import structlog

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.failpoints import failpoint
from backstop.runtime.process.pausing import pause
from schemas.base import Message
from streams import metrics
from streams.fold.batch import Fold, S
from streams.ports import WalkedRows
from streams.scheduler.due import Due, DueIndex, IndexedRows

log = structlog.get_logger()

TICK_MS = 20
"""The shortest time between two reads of the index, and so the lateness that the scheduler adds to a timer."""
IDLE_MS = 500
"""The longest time between two reads, where nothing is due: the clock may be corrected meanwhile."""
TIMERS_A_TICK_MAX = 500
"""After an outage all keys are due at once. The bound lets the folds keep up; the rest waits for the next tick."""
RETRY_WAIT_S = 0.5
ROWS_A_TICK_MAX = 500
"""Rows of a partition that are read again in one tick: some milliseconds."""

MakeTimer = Callable[[Due, bytes | None, int], Message | None]
"""(due, its row, now in ms) → the timer to write; None to write none."""


class Scheduler:
    """Timers of one log, for the partitions in its index."""

    def __init__(
        self, fold: Fold[S], *, index: DueIndex, rows: WalkedRows, make_timer: MakeTimer, publisher: Publisher,
        now_ms: NowMs, let_go: Callable[[Collection[int]], None] = lambda _: None,
        next_ms: Callable[[], int | None] = lambda: None,
    ) -> None:  # fmt: skip
        """:param let_go: called in each tick with the owned partitions; it may put deferred jobs into the index.
        :param next_ms: when `let_go` has work; None: not before a row changes.
        """
        self._next_ms = next_ms
        self._let_go = let_go
        self._name = fold.topic
        self._index = index
        self._indexed = IndexedRows(fold, index)
        self._walk: tuple[int, bytes | None] | None = None
        """The partition whose rows are read again, and the last key that was read."""
        self._rows = rows
        self._make_timer = make_timer
        self._publisher = publisher
        self._now_ms = now_ms

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            fired = await self.tick()
            if fired < TIMERS_A_TICK_MAX:
                await pause(stop, TICK_MS / 1000)
                await self._rest()

    async def _rest(self) -> None:
        """Return when there is work, after `IDLE_MS` at the latest."""
        index, now_ms = self._index, self._now_ms()
        index.wake_ms = self.wake_ms(now_ms)
        index.sooner.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0, index.wake_ms - now_ms) / 1000):
                await index.sooner.wait()

    def wake_ms(self, now_ms: int, idle_ms: int = IDLE_MS) -> int:
        """When to read the index again, unless a row becomes due before: after `idle_ms` at the latest."""
        times = (self._index.next_due_ms(), self._next_ms(), now_ms if self.reading else None, now_ms + idle_ms)
        return min(each for each in times if each is not None)

    async def tick(self) -> int:
        """Write the timers that are due now. Returns how many keys were due; 0 if the broker did not acknowledge."""
        now_ms = self._now_ms()
        owned = self._rows.partitions()
        self._read_again(owned)
        self._let_go(owned)
        dues = self._index.due(now_ms, TIMERS_A_TICK_MAX, owned)
        if not dues:
            return 0
        timers: list[Message] = []
        fired: list[Due] = []
        for due in dues:
            # Taken out first: a fact that is folded while the timers are published may make its key due again.
            self._index.taken(due)
            timer = self._make_timer(due, self._rows.get(due.partition, due.key), now_ms)
            if timer is not None:
                timers.append(timer)
                fired.append(due)
        try:
            await self._publisher.publish(timers)
        except BrokerUnavailableError as error:
            # The keys are due again and their timers are written again. The fold ignores the repeats.
            for due in fired:
                self._index.again(due)
            log.warning(
                "timers not acknowledged; writing them again", log=self._name, count=len(timers), error=str(error)
            )
            await asyncio.sleep(RETRY_WAIT_S)
            return 0
        failpoint("scheduler.timer.acked")
        for due in fired:
            metrics.SCHEDULER_LATENESS_SECONDS.observe((now_ms - due.due_ms) / 1000)
        metrics.TIMERS.labels(log=self._name).inc(len(timers))
        return len(dues)

    def _read_again(self, owned: Collection[int]) -> None:
        """Read up to `ROWS_A_TICK_MAX` rows of a partition whose later due times are near."""
        if self._walk is None:
            coming = self._index.coming(owned)
            if coming is None:
                return
            self._index.extend(coming)
            self._walk = (coming, None)
        partition, after = self._walk
        if partition not in owned:
            self._walk = None
            return
        rows = self._rows.chunk(partition, after, ROWS_A_TICK_MAX)
        self._indexed.saw(partition, rows)
        self._walk = (partition, rows[-1][0]) if len(rows) == ROWS_A_TICK_MAX else None

    @property
    def reading(self) -> bool:
        """Whether the next tick has more rows to read."""
        return self._walk is not None
