"""Writes time into a log: when a key is due, a `TimerFired`. The fold decides what that means.

Nothing here is remembered: what is due stands in the rows, so a restart or a rebalance loses no timer, and a timer that is written
twice (by an older owner of the partition, say) is one that the fold no longer expects.
"""

import asyncio
from collections.abc import Callable, Collection

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
"""How late a timer may be because of us, and how often an idle scheduler looks at its index."""
TIMERS_A_TICK_MAX = 500
"""After an outage everything is due at once: the rest waits for the next tick, and the folds keep up."""
RETRY_WAIT_S = 0.5
ROWS_A_TICK_MAX = 500
"""Read again for what was far off and is due soon: some milliseconds."""

MakeTimer = Callable[[Due, bytes | None, int], Message | None]
"""(what is due, its row, now) → the fact to write; None where the row no longer expects it."""


class Scheduler:
    """Timers of one log, for the partitions in its index."""

    def __init__(
        self, fold: Fold[S], *, index: DueIndex, rows: WalkedRows, make_timer: MakeTimer, publisher: Publisher,
        now_ms: NowMs, let_go: Callable[[Collection[int]], None] = lambda _: None,
    ) -> None:  # fmt: skip
        """`let_go` is called before each tick with the owned partitions: it may put what was held back into the index."""
        self._let_go = let_go
        self._name = fold.topic
        self._index = index
        self._indexed = IndexedRows(fold, index)
        self._walk: tuple[int, bytes | None] | None = None
        """Which partition is being read again, and the last key that was."""
        self._rows = rows
        self._make_timer = make_timer
        self._publisher = publisher
        self._now_ms = now_ms

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            fired = await self.tick()
            if fired < TIMERS_A_TICK_MAX:
                await pause(stop, TICK_MS / 1000)

    async def tick(self) -> int:
        """Write what is due now; return how many."""
        now_ms = self._now_ms()
        owned = self._rows.partitions()
        self._read_again(owned)
        self._let_go(owned)
        dues = self._index.due(now_ms, TIMERS_A_TICK_MAX, owned)
        if not dues:
            return 0
        timers: list[Message] = []
        for due in dues:
            timer = self._make_timer(due, self._rows.get(due.partition, due.key), now_ms)
            if timer is None:
                self._index.taken(due)
            else:
                timers.append(timer)
        try:
            await self._publisher.publish(timers)
        except BrokerUnavailableError as error:
            # They stay due. The fold ignores those that did land.
            log.warning(
                "timers not acknowledged; writing them again", log=self._name, count=len(timers), error=str(error)
            )
            await asyncio.sleep(RETRY_WAIT_S)
            return 0
        failpoint("scheduler.timer.acked")
        for due in dues:
            self._index.taken(due)
            metrics.SCHEDULER_LATENESS_SECONDS.observe((now_ms - due.due_ms) / 1000)
        metrics.TIMERS.labels(log=self._name).inc(len(timers))
        return len(dues)

    def _read_again(self, owned: Collection[int]) -> None:
        """A step of it, where something that was far off may be due soon."""
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
