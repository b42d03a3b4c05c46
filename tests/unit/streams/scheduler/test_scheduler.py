"""The scheduler over rows whose due times were far away when their partition was opened."""

import asyncio
from typing import Any

from schemas.jobs import JobTimerFired
from streams.fold.batch import JOB_FOLD
from streams.fold.rows import encode_row
from streams.policy.admission import Admission
from streams.policy.limits import NO_LIMITS
from streams.scheduler.due import AHEAD_MS, Due, DueIndex, IndexedRows
from streams.scheduler.job_timers import JobTimers
from streams.scheduler.service import IDLE_MS, ROWS_A_TICK_MAX, TICK_MS, Scheduler
from tests.simulation.loop import VirtualLoop
from tests.support.builders import FORGET_AFTER, T0
from tests.support.memory_publisher import MemoryPublisher
from tests.unit.streams.fold.states import finished

JOBS = 3 * ROWS_A_TICK_MAX


class Table:
    """Rows of one partition."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self.rows = rows
        self.read = 0

    def partitions(self) -> set[int]:
        return {3}

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self.rows.get(key) if partition == 3 else None

    def chunk(self, _partition: int, after: bytes | None, rows_max: int) -> list[tuple[bytes, bytes]]:
        found = [item for item in sorted(self.rows.items()) if after is None or item[0] > after][:rows_max]
        self.read += len(found)
        return found


def test_a_million_rows_that_are_due_later_are_read_once_when_they_come_near_and_fire_in_time() -> None:
    now_ms = T0
    rows = {
        b"job-%05d" % number: encode_row(JOB_FOLD.encode_state(finished("completed", T0 + number)), number)
        for number in range(JOBS)
    }
    table, publisher = Table(rows), MemoryPublisher()
    index = DueIndex(lambda: now_ms)
    watch = IndexedRows(JOB_FOLD, index)
    watch.opened(3)
    watch.saw(3, list(rows.items()))
    index.own([3])
    scheduler = Scheduler(
        JOB_FOLD,
        index=index,
        rows=table,  # type: ignore[arg-type]  # has what a scheduler reads
        make_timer=JobTimers(index, table.get, lambda _: 0, lambda: now_ms, Admission(NO_LIMITS, "a")),
        publisher=publisher,
        now_ms=lambda: now_ms,
    )

    async def main() -> None:
        nonlocal now_ms
        for _ in range(100):
            assert await scheduler.tick() == 0
        assert (table.read, len(index)) == (0, 0)
        now_ms = T0 + FORGET_AFTER - AHEAD_MS // 2
        for tick in range(4):
            assert table.read == min(JOBS, tick * ROWS_A_TICK_MAX)
            assert await scheduler.tick() == 0
        assert not scheduler.reading
        assert len(index) == JOBS
        now_ms = T0 + FORGET_AFTER + 9
        assert await scheduler.tick() == 10
        assert table.read == JOBS

    asyncio.run(main())
    assert [timer.job_id for timer in publisher.acked if isinstance(timer, JobTimerFired)] == sorted(
        key.decode() for key in list(rows)[:10]
    )


def test_an_idle_scheduler_sleeps_and_a_row_that_becomes_due_meanwhile_fires_in_time() -> None:
    loop = VirtualLoop("scheduler")

    def now_ms() -> int:
        return T0 + round(loop.time() * 1_000)

    index, table, publisher = DueIndex(now_ms), Table({}), MemoryPublisher()
    index.own([3])
    reads: list[int] = []
    fired: dict[bytes, int] = {}

    def timer(due: Due, _row: bytes | None, at_ms: int) -> None:
        fired[due.key] = at_ms - due.due_ms

    rows: Any = table
    scheduler = Scheduler(
        JOB_FOLD, index=index, rows=rows, make_timer=timer, publisher=publisher, now_ms=now_ms,
        let_go=lambda _: reads.append(now_ms()),
    )  # fmt: skip

    async def main() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(scheduler.run(stop))
        await asyncio.sleep(10)
        assert len(reads) <= 10_000 // IDLE_MS + 2
        for number in range(200):
            index.put(3, b"%d" % number, now_ms() + number % 7 * 40)
            await asyncio.sleep(0.013)
        await asyncio.sleep(1)
        stop.set()
        await running

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    assert len(fired) == 200
    assert max(fired.values()) <= TICK_MS
    assert min(fired.values()) >= 0


def test_a_scheduler_asks_again_when_what_it_holds_back_may_go() -> None:
    index = DueIndex(lambda: T0)
    index.own([3])
    times = iter((None, T0 + 7, T0 + 10 * IDLE_MS))
    rows: Any = Table({})
    scheduler = Scheduler(
        JOB_FOLD, index=index, rows=rows, make_timer=lambda *_: None, publisher=MemoryPublisher(), now_ms=lambda: T0,
        next_ms=lambda: next(times),
    )  # fmt: skip
    assert [scheduler.wake_ms(T0) for _ in range(3)] == [T0 + IDLE_MS, T0 + 7, T0 + IDLE_MS]
    index.put(3, b"a", T0 + 3)
    index.put(3, b"a", T0 + 90_000)
    index.put(3, b"b", T0 + 5)
    times = iter((None,))
    assert scheduler.wake_ms(T0) == T0 + 5
