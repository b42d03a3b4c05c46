"""Measures the cost of a partition takeover: `python -m bench.takeover [--finished 1000000] [--open 100000]`.

Fills the stores of the jobs table in a temporary folder, opens them as a rebalance does, and prints the processor time,
the longest pause of the event loop, and the memory used. No broker: recovery from the changelog is not measured.
"""

import argparse
import asyncio
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backstop.runtime.process.clock import make_clock
from schemas.base import InlineBody
from schemas.jobs import JobPolicy
from streams.faust.app import make_app
from streams.fold import job
from streams.fold.attempts import Attempts, Running
from streams.fold.batch import JOB_FOLD
from streams.fold.rows import decode_row, encode_job_state, encode_row
from streams.scheduler.due import DueIndex, IndexedRows
from streams.tables.fold_table import FoldTable
from streams.tables.partition_db import PartitionDb, StoreLimits, new_cache

PARTITIONS = 6
WEEK_MS = 7 * 86_400_000
OPEN_MS = 6 * 3_600_000
ROWS_A_BATCH = 1_000


def rows(partition: int, finished: int, open_jobs: int, now_ms: int) -> Iterator[tuple[bytes, bytes]]:
    """The rows of one partition: ends spread over the last week, deadlines over the next hours."""
    policy = JobPolicy(
        retries_max=2, rejections_max=20, backoff_base_ms=1_000, backoff_max_ms=60_000, command_valid_ms=30_000,
        report_timeout_ms=60_000, adoption_grace_ms=120_000, missing_grace_ms=40_000, forget_after_ms=WEEK_MS,
    )  # fmt: skip
    for number in range(finished):
        forget_at_ms = now_ms + WEEK_MS * (number + 1) // finished
        state: job.JobState = job.Finished(
            "tenant", f"{number:064x}", "completed", forget_at_ms - WEEK_MS, forget_at_ms, (f"resp_{number:048x}",)
        )
        yield b"job-%d-f%09d" % (partition, number), encode_row(encode_job_state(state), number)
    for number in range(open_jobs):
        deadline_at_ms = now_ms + OPEN_MS * (number + 1) // open_jobs
        body = InlineBody(value={"model": "gpt-5.2", "input": "hello " * 30})
        spec = job.Spec("tenant", "gpt-5.2", body, f"{number:064x}", now_ms, deadline_at_ms, policy, None, ())
        running = Running(1, f"resp_{number:048x}", now_ms, adopted=False)
        active = job.Active(spec, Attempts((running,), last_number=1))
        yield b"job-%d-o%09d" % (partition, number), encode_row(encode_job_state(active), finished + number)


def fill(table: FoldTable, finished: int, open_jobs: int, now_ms: int) -> None:
    limits = StoreLimits()
    for partition in range(PARTITIONS):
        db = PartitionDb(table._store.partition_path(partition), new_cache(limits), limits)  # noqa: SLF001
        batch: list[tuple[bytes, bytes]] = []
        for row in rows(partition, finished // PARTITIONS, open_jobs // PARTITIONS, now_ms):
            batch.append(row)
            if len(batch) == ROWS_A_BATCH:
                db.write(batch, 0)
                batch = []
        db.write(batch, 0)
        db.close()


def used_s() -> float:
    """Processor time, which other processes on this machine do not affect."""
    used = resource.getrusage(resource.RUSAGE_THREAD)
    return used.ru_utime + used.ru_stime


async def longest_pause_s(done: asyncio.Event) -> float:
    longest, before_s = 0.0, used_s()
    while not done.is_set():
        await asyncio.sleep(0)
        now_s = used_s()
        longest, before_s = max(longest, now_s - before_s), now_s
    return longest


async def take_over(table: FoldTable) -> tuple[float, float]:
    """Seconds, and the longest pause."""
    done = asyncio.Event()
    watching = asyncio.create_task(longest_pause_s(done))
    await asyncio.sleep(0)
    began_s = used_s()
    for partition in range(PARTITIONS):
        for _step in table._store._opening(partition):  # noqa: SLF001 - as `FoldStore.on_rebalance`
            await asyncio.sleep(0)
    took_s = used_s() - began_s
    done.set()
    return took_s, await watching


def measure(folder: Path, finished: int, open_jobs: int) -> dict[str, Any]:
    now_ms = make_clock()
    app = make_app("bench", "localhost:1", folder, now_s=lambda: now_ms() / 1000)
    table = FoldTable(app, "jobs", PARTITIONS, row_version=lambda row: decode_row(row)[1])
    fill(table, finished, open_jobs, now_ms())
    index = DueIndex(now_ms)
    table.watch(IndexedRows(JOB_FOLD, index))
    before = resident_mb()
    took_s, pause_s = asyncio.run(take_over(table))
    return {
        "rows": finished + open_jobs, "seconds of processor": round(took_s, 2),
        "longest pause in ms": round(pause_s * 1000, 1), "in the index": len(index),
        "MB more": round(resident_mb() - before, 1),
        "MB at most": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }  # fmt: skip


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.takeover", description=__doc__)
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--open", type=int, default=100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="backstop-takeover-") as folder:
        found = measure(Path(folder), given.finished, given.open)
    for name, value in found.items():
        print(f"{name:22} {value}")


if __name__ == "__main__":
    main()
