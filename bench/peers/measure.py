"""One run: the load of a scenario on a running contestant, and the figures of it.

Processor time and memory (PSS) are those of the application's processes and its servers, with their children; the
simulator and the load are left out. Times are milliseconds of this machine's clock.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.peers.contestants import Contestant
from bench.system import ledger, spread

WARM_JOBS, WARM_RATE_PER_S = 1_500, 50.0
"""The broker's JIT compiler and each database's caches; the same for all."""
LANES = 64
"""Connections of a burst."""
GIVE_UP_S = 240.0
AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class Scenario:
    """`rate_per_s` None: all at once. `kill_after_s`: SIGKILL of all the application's processes, and its restart."""

    jobs: int
    rate_per_s: float | None
    run_s: float
    kill_after_s: float | None = None


SCENARIOS = {
    "50 jobs/s": Scenario(1_000, 50.0, 1.0),
    "10 jobs/s": Scenario(120, 10.0, 1.0),
    "burst": Scenario(3_000, None, 0.2),
    "kill": Scenario(1_000, 50.0, 1.0, 10.0),
}


def now_ms() -> float:
    return time.time_ns() / 1e6


class Run:
    """A scenario on a contestant. For one use."""

    def __init__(self, contestant: Contestant, scenario: Scenario) -> None:
        self._contestant = contestant
        self._scenario = scenario
        self._posted_ms: dict[str, float] = {}

    async def figures(self) -> dict[str, Any]:
        """:raises TimeoutError: results are missing after `GIVE_UP_S`."""
        contestant, scenario = self._contestant, self._scenario
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await self._load(session, "warm", WARM_JOBS, WARM_RATE_PER_S)
            await self._all(WARM_JOBS)
            busy_s, began_ms = cpu_s(self._roots()), now_ms()
            killed = asyncio.create_task(self._kill())
            await self._load(session, "job", scenario.jobs, scenario.rate_per_s)
            await self._all(WARM_JOBS + scenario.jobs)
            ended_ms = now_ms()
            killed_ms = await killed
            spent_s = cpu_s(self._roots()) - busy_s
        creates = [line for line in await ledger(contestant.simulator_url, "creates") if line["job"][:3] == "job"]
        accepted = {line["job"]: line["at_ms"] for line in reversed(creates)}
        found = {
            "jobs": scenario.jobs,
            "jobs_per_s": round(1_000 * scenario.jobs / (ended_ms - began_ms), 1),
            "duplicate_creates": len(creates) - len(accepted),
            "memory_mib": round(pss_mib(self._roots())),
            "submission_ms": spread(accepted[job] - self._posted_ms[job] for job in accepted),
        }
        if killed_ms is None:
            found["cpu_ms_a_job"] = round(1_000 * spent_s / scenario.jobs, 2)
        else:
            found["kill_to_last_result_s"] = round((ended_ms - killed_ms) / 1_000, 1)
        if scenario.rate_per_s is not None and killed_ms is None:
            found["added_ms"] = spread(await self._added_ms())
        return found

    def _roots(self) -> list[int]:
        """The pids of what is measured."""
        own = (self._contestant.supervisor.pid(name) for name in self._contestant.app)
        return [*(pid for pid in own if pid is not None), *self._contestant.servers]

    async def _load(self, session: aiohttp.ClientSession, name: str, jobs: int, rate_per_s: float | None) -> None:
        if rate_per_s is None:
            numbers = iter(range(jobs))

            async def lane() -> None:
                for number in numbers:
                    await self._submit(session, f"{name}-{number}")

            await asyncio.gather(*(lane() for _ in range(LANES)))
            return
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(jobs):
                await asyncio.sleep(max(0.0, began_s + number / rate_per_s - time.monotonic()))
                group.create_task(self._submit(session, f"{name}-{number}"))

    async def _submit(self, session: aiohttp.ClientSession, job_id: str) -> None:
        """A caller repeats its submission, with the same id, until it is accepted."""
        self._posted_ms[job_id] = now_ms()
        address, body = self._contestant.submission(job_id)
        while True:
            with suppress(aiohttp.ClientError):
                async with session.post(address, json=body) as answer:
                    await answer.read()
                    if answer.status < 300:
                        return self._contestant.submitted(job_id)
            await asyncio.sleep(AGAIN_S)

    async def _all(self, count: int) -> None:
        contestant = self._contestant
        async with asyncio.timeout(GIVE_UP_S):
            while (len(contestant.seen) if contestant.count is None else await contestant.count()) < count:
                await asyncio.sleep(0.05)

    async def _kill(self) -> float | None:
        if self._scenario.kill_after_s is None:
            return None
        await asyncio.sleep(self._scenario.kill_after_s)
        killed_ms = now_ms()
        for name in self._contestant.app:
            if (pid := self._contestant.supervisor.pid(name)) is not None:
                for process in (pid, *below(pid)):
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
        return killed_ms

    async def _added_ms(self) -> list[float]:
        """From the first attempt at the webhook until the result could be read."""
        sent: dict[str, float] = {}
        for line in await ledger(self._contestant.simulator_url, "deliveries"):
            sent.setdefault(line["job"], line["at_ms"] - line["took_ms"])
        seen = self._contestant.seen
        return [seen[job] - at_ms for job, at_ms in sent.items() if job[:3] == "job" and job in seen]


def below(root: int) -> list[int]:
    """The pids of all processes below this one."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    found, left = [], [root]
    while left:
        left += (more := children.get(left.pop(), []))
        found += more
    return found


def cpu_s(roots: Iterable[int]) -> float:
    """Processor seconds so far, of these processes and all below them, ended ones included."""
    ticks = 0
    for root in roots:
        for pid in (root, *below(root)):
            with suppress(OSError):
                ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def pss_mib(roots: Iterable[int]) -> float:
    """Memory of these processes and all below them; what they share is counted once."""
    kib = 0
    for root in roots:
        for pid in (root, *below(root)):
            with suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                kib += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024
