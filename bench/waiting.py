"""Measures what jobs cost while they wait: `python -m bench.waiting [--jobs 1000000] [--seconds 20]`.

Runs the scheduler of jobs as a worker does, without a broker, over jobs that back off until later and over jobs whose
lane is closed. Prints processor time for each second of waiting, and the memory of their places in index and queue.
"""

import argparse
import asyncio
import resource
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from backstop.runtime.process.clock import make_clock
from schemas.base import InlineBody, Message
from schemas.jobs import JobPolicy
from schemas.results import Reason
from streams.fold import job
from streams.fold.attempts import Attempts
from streams.fold.batch import JOB_FOLD
from streams.fold.rows import encode_row
from streams.policy.admission import Admission
from streams.policy.limits import NO_LIMITS
from streams.scheduler.admissions import waiter_of
from streams.scheduler.due import DueIndex
from streams.scheduler.job_timers import JobTimers
from streams.scheduler.service import Scheduler
from streams.workers.lanes import Lanes

MODEL, PARTITIONS, HOUR_MS = "gpt-5.2", range(6), 3_600_000
POLICY = JobPolicy(
    retries_max=2, rejections_max=100_000, backoff_base_ms=1_000, backoff_max_ms=60_000, command_valid_ms=30_000,
    report_timeout_ms=60_000, adoption_grace_ms=120_000, missing_grace_ms=40_000, forget_after_ms=HOUR_MS,
)  # fmt: skip


class OneRow:
    """Every job has this row: only the work of waiting is measured. Stands for the publisher, too."""

    def __init__(self, row: bytes) -> None:
        self._row = row
        self.written = 0

    def partitions(self) -> Collection[int]:
        return PARTITIONS

    def get(self, _partition: int, _key: bytes) -> bytes | None:
        return self._row

    def chunk(self, _partition: int, _after: bytes | None, _limit: int) -> list[tuple[bytes, bytes]]:
        return []

    async def publish(self, messages: Sequence[Message], _timeout_s: float | None = None) -> None:
        self.written += len(messages)


def state_of(retry_at_ms: int, now_ms: int) -> job.BackingOff:
    spec = job.Spec(
        "acme", MODEL, InlineBody(value={"model": MODEL}), "0" * 64, now_ms, now_ms + 6 * HOUR_MS, POLICY, None, ()
    )  # fmt: skip
    return job.BackingOff(spec, Attempts(last_number=1), retry_at_ms, Reason(code="http_503"), "overloaded")


def measure(jobs: int, seconds: float, *, closed: bool) -> tuple[float, float, int]:
    """Milliseconds of processor time a second, bytes a job, and records written."""
    clock = make_clock()
    now_ms, before = clock(), resident_bytes()
    state = state_of(now_ms if closed else now_ms + HOUR_MS // 2, now_ms)
    rows, lanes, index = OneRow(encode_row(JOB_FOLD.encode_state(state), 7)), Lanes(clock), DueIndex(clock)
    admission = Admission(NO_LIMITS, "a")
    index.own(PARTITIONS)
    for number in range(jobs):
        place = number % len(PARTITIONS), b"acme:job-%012d" % number
        index.put(*place, state.spec.deadline_at_ms if closed else state.retry_at_ms)
        if closed:
            admission.put(waiter_of(*place, state), now_ms)
    if closed:
        lanes.failed(MODEL, "c", "account", "invalid_api_key", account_wide=True)
    timers = JobTimers(index, rows.get, lanes.release, clock, admission)
    scheduler = Scheduler(
        JOB_FOLD, index=index, rows=rows, make_timer=timers, publisher=rows, now_ms=clock,  # type: ignore[arg-type]
        let_go=timers.let_go, next_ms=timers.next_ms,
    )  # fmt: skip
    used_bytes = resident_bytes() - before

    async def wait() -> float:
        stop = asyncio.Event()
        running = asyncio.create_task(scheduler.run(stop))
        await asyncio.sleep(1)
        began_s = time.process_time()
        await asyncio.sleep(seconds)
        used_s = time.process_time() - began_s
        stop.set()
        await running
        return used_s

    return asyncio.run(wait()) / seconds * 1_000, used_bytes / max(jobs, 1), rows.written


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.waiting", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    for jobs in (0, given.jobs):
        for closed in (False, True):
            used_ms, a_job, written = measure(jobs, given.seconds, closed=closed)
            what = "wait for a closed lane" if closed else "back off"
            print(f"{jobs} {what}: {used_ms:.2f} ms of processor a second, {a_job:.0f} bytes a job, {written} written")


if __name__ == "__main__":
    main()
