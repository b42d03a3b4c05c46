"""One run: the load of a scenario on a running contestant, and the figures of it.

Processor time and memory (PSS) are those of the application's processes and its servers, with their children; the
simulator and the load are left out. Times are milliseconds of this machine's clock.
"""

import asyncio
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

from bench.peers.contestants import Contestant
from bench.processes import below, cpu_s, pss_mib
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

TOGETHER = (("50 jobs/s", "10 jobs/s", "kill"), ("burst",))
"""Scenarios that one warm system runs one after the other."""


def now_ms() -> float:
    return time.time_ns() / 1e6


class Run:
    """A scenario on a contestant. For one use."""

    def __init__(self, contestant: Contestant, scenario: Scenario, name: str = "job", before: int = 0) -> None:
        """:param before: jobs of this contestant that ended in earlier runs. Without any it is warmed up first.
        :param name: with which the ids of the jobs begin.
        """
        self._contestant = contestant
        self._scenario = scenario
        self._name = f"{name}-"
        self._before = before
        self._posted_ms: dict[str, float] = {}

    async def figures(self) -> dict[str, Any]:
        """:raises TimeoutError: results are missing after `GIVE_UP_S`."""
        contestant, scenario = self._contestant, self._scenario
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            if not self._before:
                await self._load(session, "warm-", WARM_JOBS, WARM_RATE_PER_S)
                self._before = WARM_JOBS
                await self._all(self._before)
            busy_s, began_ms = self._busy_s(), now_ms()
            killed = asyncio.create_task(self._kill())
            await self._load(session, self._name, scenario.jobs, scenario.rate_per_s)
            self._before += scenario.jobs
            await self._all(self._before)
            ended_ms = now_ms()
            killed_ms = await killed
            spent_s = {name: spent - busy_s[name] for name, spent in self._busy_s().items()}
        creates = [line for line in await ledger(contestant.simulator_url, "creates") if self._own(line)]
        accepted = {line["job"]: line["at_ms"] for line in reversed(creates)}
        found = {
            "jobs": scenario.jobs,
            "jobs_per_s": round(1_000 * scenario.jobs / (ended_ms - began_ms), 1),
            "duplicate_creates": len(creates) - len(accepted),
            "memory_mib": round(pss_mib(self._roots())),
            "submission_ms": spread(accepted[job] - self._posted_ms[job] for job in accepted),
        }
        if killed_ms is None:
            found["cpu_ms_a_job"] = round(1_000 * sum(spent_s.values()) / scenario.jobs, 2)
            found["of"] = {name: round(1_000 * spent / scenario.jobs, 2) for name, spent in spent_s.items()}
        else:
            found["kill_to_last_result_s"] = round((ended_ms - killed_ms) / 1_000, 1)
        if scenario.rate_per_s is not None and killed_ms is None:
            found["added_ms"] = spread(await self._added_ms())
        return found

    @property
    def ended(self) -> int:
        """How many jobs of the contestant have ended."""
        return self._before

    def _own(self, line: dict[str, Any]) -> bool:
        return str(line["job"]).startswith(self._name)

    def _busy_s(self) -> dict[str, float]:
        """Processor seconds by process, and of the servers together."""
        contestant = self._contestant
        own = {name: contestant.supervisor.pid(name) for name in contestant.app}
        return {
            **{name: cpu_s([pid]) for name, pid in own.items() if pid is not None}, "servers": cpu_s(contestant.servers)
        }  # fmt: skip

    def _roots(self) -> list[int]:
        """The pids of what is measured."""
        own = (self._contestant.supervisor.pid(name) for name in self._contestant.app)
        return [*(pid for pid in own if pid is not None), *self._contestant.servers]

    async def _load(self, session: aiohttp.ClientSession, name: str, jobs: int, rate_per_s: float | None) -> None:
        if rate_per_s is None:
            numbers = iter(range(jobs))

            async def lane() -> None:
                for number in numbers:
                    await self._submit(session, f"{name}{number}")

            await asyncio.gather(*(lane() for _ in range(LANES)))
            return
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(jobs):
                await asyncio.sleep(max(0.0, began_s + number / rate_per_s - time.monotonic()))
                group.create_task(self._submit(session, f"{name}{number}"))

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
        for name in self._contestant.killed or self._contestant.app:
            if (pid := self._contestant.supervisor.pid(name)) is not None:
                for process in (pid, *below(pid)):
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
        return killed_ms

    async def _added_ms(self) -> list[float]:
        """From the first attempt at the webhook until the result could be read."""
        sent: dict[str, float] = {}
        for line in await ledger(self._contestant.simulator_url, "deliveries"):
            if self._own(line):
                sent.setdefault(line["job"], line["at_ms"] - line["took_ms"])
        seen = self._contestant.seen
        return [seen[job] - at_ms for job, at_ms in sent.items() if job in seen]
