"""What many open jobs cost one worker, without a broker: `python -m bench --only open`.

The stores of the jobs table are filled with rows of running attempts (`bench.takeover`), opened as a rebalance does,
and then read, folded and timed. Each size is measured in a process of its own.
"""

import asyncio
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from backstop.runtime.process.clock import make_clock
from backstop.runtime.records import Record
from bench.folding import NoPublisher
from bench.processes import resident_bytes
from bench.system import spread
from bench.takeover import OPEN_MS, PARTITIONS, fill, take_over
from schemas.codec import encode
from schemas.jobs import CancelRequested
from streams.faust.app import make_app
from streams.fold.batch import JOB_FOLD, fold_batch
from streams.fold.rows import decode_row
from streams.scheduler.due import Due, DueIndex, IndexedRows
from streams.scheduler.service import Scheduler
from streams.tables.fold_table import FoldTable

EVENTS, BATCH, TIMED_S = 6_000, 50, 10.0


async def open_jobs(jobs: int) -> dict[str, Any]:
    clock = make_clock()
    with tempfile.TemporaryDirectory(prefix="backstop-open-") as folder:
        app = make_app("bench", "localhost:1", Path(folder), now_s=lambda: clock() / 1_000)
        table = FoldTable(app, "jobs", PARTITIONS, row_version=lambda row: decode_row(row)[1])
        fill(table, 0, jobs, clock())
        index = DueIndex(clock)
        table.watch(IndexedRows(JOB_FOLD, index))
        before, began_s = resident_bytes(), time.monotonic()
        cpu_s, pause_s = await take_over(table)
        took_s = time.monotonic() - began_s
        a_job = (resident_bytes() - before) / jobs
        table._active = set(range(PARTITIONS))  # noqa: SLF001 - as after a recovery
        event_us = _events_us(table, jobs, clock())
        late = await _late_ms(table, jobs)
        return {
            "jobs": jobs, "bytes_a_job": round(a_job), "start_s": round(took_s, 2), "start_cpu_s": round(cpu_s, 2),
            "pause_ms": round(pause_s * 1_000, 1), "event_us": round(event_us, 1), "late_ms": late,
            "resident_mib_at_most": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }  # fmt: skip


def _events_us(table: FoldTable, jobs: int, now_ms: int) -> float:
    """Processor time of a fact for an open job anywhere: row read, parsed, folded, row and outputs made."""
    in_one = jobs // PARTITIONS
    given = []
    for number in range(EVENTS):
        partition, place = number % PARTITIONS, number * 7_919 % in_one
        job_id = f"job-{partition}-o{place:09d}"
        fact = CancelRequested(
            id=f"{job_id}/cancel/{number}", at_ms=now_ms, job_id=job_id, tenant="tenant", ingress="http"
        )
        record = Record("jobs", partition, 10_000_000 + number, now_ms, job_id.encode(), encode(fact), ())
        given.append((partition, record))
    began_s = time.process_time()
    for first in range(0, EVENTS, BATCH):
        for partition in range(PARTITIONS):
            records = [record for of, record in given[first : first + BATCH] if of == partition]
            fold_batch(JOB_FOLD, lambda key, of=partition: table.get(of, key), records)  # type: ignore[misc]
    return (time.process_time() - began_s) / EVENTS * 1e6


async def _late_ms(table: FoldTable, jobs: int) -> dict[str, float]:
    """How late timers are, where each job has one within the hours of `OPEN_MS`."""
    clock, late = make_clock(), list[float]()
    now_ms = clock()
    index = DueIndex(clock)
    index.own(range(PARTITIONS))
    for number in range(jobs):
        index.put(number % PARTITIONS, b"job-%012d" % number, now_ms + OPEN_MS * number // jobs)

    def timer(due: Due, _row: bytes | None, at_ms: int) -> None:
        late.append(at_ms - due.due_ms)

    scheduler = Scheduler(
        JOB_FOLD, index=index, rows=table, make_timer=timer, publisher=NoPublisher(), now_ms=clock
    )  # fmt: skip
    stop = asyncio.Event()
    running = asyncio.create_task(scheduler.run(stop))
    await asyncio.sleep(TIMED_S)
    stop.set()
    await running
    return spread(late)
