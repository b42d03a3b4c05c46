"""Writes time into a log: when a key is due, a `TimerFired`. The fold decides what that means.

Nothing here is remembered: what is due stands in the rows, so a restart or a rebalance loses no timer, and a timer that is written
twice (by an older owner of the partition, say) is one that the fold no longer expects.
"""

import asyncio
from collections.abc import Callable, Iterable

import structlog

from runtime.clock import NowMs, monotonic_s
from runtime.errors import BrokerUnavailableError
from runtime.failpoints import failpoint
from runtime.pausing import pause
from runtime.publisher import Publisher
from schemas.base import Message
from streams import metrics
from streams.fold.batch import Fold, S
from streams.fold.rows import decode_row
from streams.ports import Rows
from streams.scheduler.due import Due, DueIndex

log = structlog.get_logger()

TICK_MS = 20
"""How late a timer may be because of us, and how often an idle scheduler looks at its index."""
TIMERS_A_TICK_MAX = 500
"""After an outage everything is due at once: the rest waits for the next tick, and the folds keep up."""
RETRY_WAIT_S = 0.5

MakeTimer = Callable[[Due, bytes | None, int], Message | None]
"""(what is due, its row, now) → the fact to write; None where the row no longer expects it."""


class Scheduler:
    """Timers of one log, for the partitions in its index."""

    def __init__(
        self, name: str, *, index: DueIndex, rows: Rows, make_timer: MakeTimer, publisher: Publisher, now_ms: NowMs
    ) -> None:
        self._name = name
        self._index = index
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
        owned = self._rows.partitions()  # In a rebalance the index may still hold what is gone.
        dues = [due for due in self._index.due(now_ms, TIMERS_A_TICK_MAX) if due.partition in owned]
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


def rebuild_index(fold: Fold[S], index: DueIndex, rows: Rows, partitions: Iterable[int]) -> None:
    """After a recovery: the index owns exactly `partitions`, with the due times that their rows hold."""
    started_s = monotonic_s()
    owned = frozenset(partitions)
    for gone in index.partitions() - owned:
        index.drop(gone)
    for partition in owned:
        failpoint("scheduler.index.rebuilding")
        dues: list[tuple[bytes, int]] = []
        for key, row in rows.items(partition):
            due_ms = fold.due_ms(fold.decode_state(decode_row(row)[0]))
            if due_ms is not None:
                dues.append((key, due_ms))
        index.rebuild(partition, dues)
    metrics.RECOVERY_SECONDS.observe(monotonic_s() - started_s)
