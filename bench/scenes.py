"""The scenes that `make bench` runs, and the goals of their figures."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backstop.runtime.process.garbage import settle_garbage_collector
from bench.bare import bare
from bench.folding import folding, pure
from bench.idle import idle
from bench.judging import Goal
from bench.open_jobs import open_jobs
from bench.peers.__main__ import several
from bench.system import start
from bench.weather import big_burst, flood, slow


@dataclass(frozen=True, slots=True)
class Scene:
    """`takes_s`: about how long one repeat takes on two quiet cores."""

    run: Callable[[], Awaitable[Mapping[str, Any]]]
    takes_s: int
    curve: bool = False
    """A point of the growth curves: measured once, whatever the repeats."""


async def _steady() -> Mapping[str, Any]:
    """50 jobs/s, 10 jobs/s, and SIGKILL of everything at 50 jobs/s, on one warm system."""
    found = await several("backstop", ("50 jobs/s", "10 jobs/s", "kill"))
    return {"at_50": found["50 jobs/s"], "at_10": found["10 jobs/s"], "kill": found["kill"]}


async def _burst() -> Mapping[str, Any]:
    return (await several("backstop", ("burst",)))["burst"]


async def _kill_one() -> Mapping[str, Any]:
    """SIGKILL of one of two workers at 50 jobs/s."""
    return (await several("backstop", ("kill",), workers=2))["kill"]


def _log(jobs: int) -> Callable[[], Awaitable[Mapping[str, Any]]]:
    return lambda: asyncio.to_thread(pure, jobs)


def _open(jobs: int) -> Callable[[], Awaitable[Mapping[str, Any]]]:
    return lambda: open_jobs(jobs)


LOG_JOBS = (200, 2_000, 20_000)
OPEN_JOBS = (1_000, 10_000, 100_000, 1_000_000)
SCENES: Mapping[str, Scene] = {
    "bare": Scene(bare, 40),
    "start": Scene(start, 10),
    "steady": Scene(_steady, 120),
    "kill_one": Scene(_kill_one, 80),
    "burst": Scene(_burst, 60),
    "idle": Scene(idle, 95),
    "folding": Scene(folding, 45),
    "flood": Scene(flood, 75),
    "slow": Scene(slow, 90),
    "big_burst": Scene(big_burst, 110),
    **{f"log_{jobs}": Scene(_log(jobs), 5 + jobs // 400, curve=True) for jobs in LOG_JOBS},
    **{f"open_{jobs}": Scene(_open(jobs), 15 + jobs // 8_000, curve=True) for jobs in OPEN_JOBS},
}

HOP_50, HOP_99, READ = "bare.hop_ms.p50", "bare.hop_ms.p99", "bare.consumer_records_per_s"
GOALS = (
    Goal("steady.at_50.added_ms.p50", "50 jobs/s: webhook sent → result, p50, ms", 8, beside=HOP_50),
    Goal("steady.at_50.added_ms.p99", "… p99, ms", 30, beside=HOP_99),
    Goal("steady.at_10.added_ms.p50", "10 jobs/s: webhook sent → result, p50, ms", 8, beside=HOP_50),
    Goal("steady.at_10.added_ms.p99", "… p99, ms", 15, beside=HOP_99),
    Goal("steady.at_50.submission_ms.p50", "request → create accepted, 50 jobs/s, p50, ms", 6, beside=HOP_50),
    Goal("steady.at_50.cpu_ms_a_job", "CPU at 50 jobs/s with the broker, ms a job", 7),
    *(
        Goal(f"steady.at_50.of.{name}", f"… of it {name}", None)
        for name in ("worker", "serve", "projection", "servers")
    ),
    Goal("steady.at_10.cpu_ms_a_job", "CPU at 10 jobs/s with the broker, ms a job", 20),
    Goal("burst.jobs_per_s", "3,000 jobs flat out, jobs/s", 700, at_least=True, beside="bare.aiohttp_requests_per_s"),
    Goal("burst.cpu_ms_a_job", "… CPU with the broker, ms a job", 2.2),
    Goal("burst.memory_mib", "… memory with the broker (PSS), MiB", 450),
    Goal("steady.kill.duplicate_creates", "SIGKILL of all at 50 jobs/s: creates beyond the first of a job", 0),
    Goal("steady.kill.kill_to_last_result_s", "… kill to last result, s (the load goes on for 10)", 12),
    Goal("kill_one.kill_to_last_result_s", "… of one of two workers: kill to last result, s", 11.5),
    Goal("kill_one.duplicate_creates", "… creates beyond the first of a job", 0),
    Goal("start.ready_s", "`backstop dev` typed → ready, s", 5),
    Goal("idle.python_percent", "an idle system in Python, % of a core", 1),
    *(Goal(f"idle.percent.{name}", f"… of it {name}", None) for name in ("worker", "serve", "projection")),
    Goal("idle.percent.broker", "an idle broker, % of a core", None),
    Goal("folding.step_events_per_s", "pure fold, events/s of a core", 300_000, at_least=True),
    Goal(
        "folding.table.events_per_s", "fold with table and changelog acknowledged, events/s", 50_000,
        at_least=True, beside=READ,
    ),
    Goal(
        "folding.outputs.events_per_s", "… with one acknowledged output each, events/s", 30_000,
        at_least=True, beside=READ,
    ),
    Goal("folding.verify_events_per_s", "`audit verify`, events/s of a core", 100_000, at_least=True),
    *(
        Goal(f"log_{jobs}.verify_events_per_s", f"… of a log of {6 * jobs:,} facts", None,
             beside="folding.verify_events_per_s")
        for jobs in LOG_JOBS
    ),
    Goal("flood.p99_ratio", "p99 of a quiet partition beside 500 jobs/s in another, × its p99 alone", 3),
    Goal("big_burst.jobs_per_s", "20,000 jobs at once, jobs/s", None, beside="burst.jobs_per_s", of_beside=0.9,
         at_least=True),
    Goal("big_burst.worker_mib_at_most", "… memory of the worker at most (PSS), MiB", 300),
    Goal("slow.p99_ratio", "p99 beside 60 creates that take 30 s, × the p99 without", 1.5),
    Goal("slow.cpu_ratio", "… CPU of a job, × that without", 1.2),
    *(
        goal
        for jobs in OPEN_JOBS
        for goal in (
            Goal(f"open_{jobs}.bytes_a_job", f"{jobs:,} open jobs on one worker: bytes of memory each",
                 1_024 if jobs == OPEN_JOBS[-1] else None),
            Goal(f"open_{jobs}.late_ms.p99", "… timers late, p99, ms", 1_000 if jobs == OPEN_JOBS[-1] else None),
            Goal(f"open_{jobs}.event_us", "… an event (row read, parsed, folded), µs", None,
                 beside=None if jobs == OPEN_JOBS[0] else f"open_{OPEN_JOBS[0]}.event_us",
                 of_beside=1.2 if jobs == OPEN_JOBS[-1] else None),
            Goal(f"open_{jobs}.start_s", "… start with a warm store, s", 10 if jobs == OPEN_JOBS[-1] else None),
            Goal(f"open_{jobs}.pause_ms", "… longest pause of the loop meanwhile, ms",
                 100 if jobs == OPEN_JOBS[-1] else None),
        )
    ),
)  # fmt: skip
UNMEASURED = (
    "rebuild from an empty disk (no scene yet)",
    "growth by partitions and by workers, logs of more than 120,000 records, two workers on two cores (no scene yet)",
    "100,000 jobs at once: 20,000 stand for them",
)


def run(name: str) -> Mapping[str, Any]:
    settle_garbage_collector()  # As each process of Backstop does.
    return asyncio.run(SCENES[name].run())  # type: ignore[arg-type]  # each scene is a coroutine function
