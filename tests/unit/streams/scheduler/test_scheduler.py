"""The scheduler over rows whose due times were far away when their partition was opened."""

import asyncio

from schemas.jobs import JobTimerFired
from streams.fold.batch import JOB_FOLD
from streams.fold.rows import encode_row
from streams.policy.admission import Admission
from streams.policy.limits import NO_LIMITS
from streams.scheduler.due import AHEAD_MS, DueIndex, IndexedRows
from streams.scheduler.job_timers import JobTimers
from streams.scheduler.service import ROWS_A_TICK_MAX, Scheduler
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
