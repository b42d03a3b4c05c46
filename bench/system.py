"""The whole system for a measurement: real broker, real processes, the simulator as the provider."""

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from backstop.dev.system import Shape, System, running_system
from backstop.dev.upstream import ResultReader

GIVE_UP_S = 240.0


OURS = ("worker", "serve", "projection")


def now_ms() -> float:
    return time.time_ns() / 1e6


class Downstream:
    """A read_committed consumer of `results`: when each job's result could be read."""

    def __init__(self, system: System) -> None:
        self.seen_ms: dict[str, float] = {}
        self.repeats = 0
        self._reader = ResultReader(system.runtime)

    async def run(self) -> None:
        await self._reader.start(from_beginning=True)
        try:
            async for result in self._reader.read():
                self.repeats += result.job_id in self.seen_ms
                self.seen_ms.setdefault(result.job_id, now_ms())
        finally:
            await self._reader.stop()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(GIVE_UP_S):
            while len(self.seen_ms) < count:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def system_of(profile: Mapping[str, Any], settings: Mapping[str, str], workers: int) -> AsyncIterator[System]:
    with tempfile.TemporaryDirectory(prefix="backstop-bench-") as folder:
        shape = Shape(
            folder=Path(folder),
            environment=dict(os.environ),
            settings=settings,
            faults=json.dumps(profile),
            workers=workers,
        )
        async with running_system(shape, lambda text: print(text, file=sys.stderr), lambda _kill: None) as system:
            yield system


def our_pids(system: System) -> dict[str, int]:
    """By name: the processes that are Backstop's own."""
    return {name: pid for name in OURS if (pid := system.supervisor.pid(name)) is not None}


def submit_value(job_id: str) -> bytes:
    return json.dumps({"type": "submit", "job_id": job_id, "request": {"model": "gpt-bench", "input": job_id}}).encode()


async def ledger(simulator_url: str | None, name: str) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    async with aiohttp.ClientSession() as session:
        while True:
            since = lines[-1]["n"] if lines else 0
            async with session.get(f"{simulator_url}/sim/ledger/{name}?since={since}&limit=10000") as answer:
                page = [json.loads(line) for line in (await answer.text()).splitlines()]
            if not page:
                return lines
            lines += page


def spread(values_ms: Iterable[float]) -> dict[str, float]:
    ordered = sorted(values_ms)
    if not ordered:
        return {}
    at = {f"p{p}": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 1) for p in (50, 90, 99)}
    return {**at, "max": round(ordered[-1], 1), "n": len(ordered)}


async def start() -> dict[str, Any]:
    """The broker's jars are there already; the simulated run itself takes 0.1 s."""
    job = {"model": "gpt-bench", "input": "x", "metadata": {"sim_queue_s": "0", "sim_run_s": "0.1"}}
    with tempfile.TemporaryDirectory(prefix="backstop-bench-") as folder:
        began = now_ms()
        dev = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "backstop.cli", "dev", "--state-dir", folder, stdout=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(GIVE_UP_S):
                while not (Path(folder) / "dev.json").exists():
                    await asyncio.sleep(0.05)
                ready_s = (now_ms() - began) / 1000
                url = json.loads((Path(folder) / "dev.json").read_text())["url"]
                async with aiohttp.ClientSession() as session:
                    async with session.post(f"{url}/v1/jobs", json={"job_id": "first", "request": job}) as answer:
                        answer.raise_for_status()
                    async with session.get(f"{url}/v1/jobs/first?wait=30") as answer:
                        status = (await answer.json())["status"]
            result_s = (now_ms() - began) / 1000
        finally:
            dev.send_signal(signal.SIGINT)
            await dev.wait()
        stopped_s = (now_ms() - began) / 1000 - result_s
    return {"what": "start", "ready_s": round(ready_s, 1), "first_result_s": round(result_s, 1), "status": status,
            "stop_s": round(stopped_s, 1), "exit": dev.returncode}  # fmt: skip
