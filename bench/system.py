"""Measures the whole system on this machine: real broker, real processes, the simulator as the provider.

    python bench/system.py latency [--rate 50] [--seconds 30]   added latency at a steady rate
    python bench/system.py burst [--jobs 3000]                  jobs a second, all submitted at once
    python bench/system.py memory [--jobs 10000]                resident memory of a worker with that many open jobs
    python bench/system.py start                                from `backstop dev` typed to the first result

Each prints one JSON object. `hop` is the time of a record through Kafka alone (produce with acks=all, consume), at the
same rate in the same run: quote ratios to it, as absolute figures depend on the machine. Timestamps are milliseconds of
one machine's clock.
"""

import argparse
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
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from backstop.dev.system import Shape, System, running_system
from backstop.dev.upstream import ResultReader

GIVE_UP_S = 240.0
WARM_S = 30
"""Warm-up, not measured: the broker's JIT compiler still uses more processor time than the system."""


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


async def latency(rate: float, seconds: float) -> dict[str, Any]:
    run = {"kind": "uniform", "low_s": 1.0, "high_s": 3.0}
    profile = {"models": {"*": {"queue": {"kind": "fixed", "s": 0.1}, "run": run}}}
    async with system_of(profile, {}, 1) as system:
        downstream = Downstream(system)
        reading = asyncio.create_task(downstream.run())
        producer = AIOKafkaProducer(bootstrap_servers=system.bootstrap, acks="all")
        await producer.start()
        hops = Hops(system, producer)
        await hops.start()
        sent_ms: dict[str, float] = {}
        cpu_before = cpu_s(system)
        warm = round(rate * WARM_S)
        for number in range(warm + round(rate * seconds)):
            job_id = f"bench-{number}"
            sent_ms[job_id] = now_ms()
            await producer.send(f"{system.runtime.topic_prefix}requests", submit_value(job_id), key=job_id.encode())
            if number % 2:
                await hops.once()
            await asyncio.sleep(1 / rate)
        await downstream.until(len(sent_ms))
        cpu = cpu_ms_a_job(cpu_before, cpu_s(system), len(sent_ms))
        measured = [job_id for number, job_id in enumerate(sent_ms) if number >= warm]
        creates = {line["job"]: line["at_ms"] for line in await ledger(system.simulator_url, "creates")}
        webhooks: dict[str, float] = {}
        for line in await ledger(system.simulator_url, "deliveries"):
            if line["job"] not in webhooks and line["outcome"] == "delivered":
                webhooks[line["job"]] = line["at_ms"] - line["took_ms"]
        reading.cancel()
        await producer.stop()
        await hops.stop()
        hop = spread(hops.took_ms)
        webhook = spread(downstream.seen_ms[job_id] - webhooks[job_id] for job_id in measured if job_id in webhooks)
        create = spread(creates[job_id] - sent_ms[job_id] for job_id in measured)
        return {
            "what": "latency", "rate_per_s": rate, "jobs": len(sent_ms), "repeats": downstream.repeats,
            "webhook_sent_to_result_ms": webhook, "request_to_create_accepted_ms": create, "hop_ms": hop,
            "cpu_ms_a_job": cpu, "ratio_to_hop_p50": round(webhook["p50"] / max(hop["p50"], 0.1), 1),
        }  # fmt: skip


class Hops:
    """One record through Kafka alone, timed."""

    def __init__(self, system: System, producer: AIOKafkaProducer) -> None:
        self.took_ms: list[float] = []
        self._topic = f"{system.runtime.topic_prefix}dead-letters"
        self._producer = producer
        self._consumer = AIOKafkaConsumer(
            self._topic,
            bootstrap_servers=system.bootstrap,
            auto_offset_reset="latest",
            enable_auto_commit=False,
            fetch_max_wait_ms=10,
        )

    async def start(self) -> None:
        await self._consumer.start()
        await self._consumer.getmany(timeout_ms=200)

    async def once(self) -> None:
        began = now_ms()
        await self._producer.send_and_wait(self._topic, b'{"bench":true}', partition=0)
        await self._consumer.getone()
        self.took_ms.append(now_ms() - began)

    async def stop(self) -> None:
        await self._consumer.stop()


async def burst(jobs: int, more: Mapping[str, str] | None = None) -> dict[str, Any]:
    """:param more: settings of all processes."""
    run = {"kind": "uniform", "low_s": 0.5, "high_s": 1.5}
    profile = {"models": {"*": {"queue": {"kind": "fixed", "s": 0.1}, "run": run}}}
    settings = {"BACKSTOP_POLL_RATE_MAX_PER_S": "2000", **(more or {})}
    async with system_of(profile, settings, 1) as system:
        downstream = Downstream(system)
        reading = asyncio.create_task(downstream.run())
        producer = AIOKafkaProducer(bootstrap_servers=system.bootstrap, acks="all", linger_ms=5)
        await producer.start()
        topic = f"{system.runtime.topic_prefix}requests"
        cpu_before = cpu_s(system)
        began = now_ms()
        waits = [await producer.send(topic, submit_value(f"burst-{n}"), key=f"burst-{n}".encode()) for n in range(jobs)]
        for wait in waits:
            await wait
        submitted_s = (now_ms() - began) / 1000
        await downstream.until(jobs)
        took_s = (now_ms() - began) / 1000
        cpu = cpu_ms_a_job(cpu_before, cpu_s(system), jobs)
        reading.cancel()
        await producer.stop()
        creates = await ledger(system.simulator_url, "creates")
        rss = worker_rss_mib(system)
        return {
            "what": "burst", "jobs": jobs, "submitted_in_s": round(submitted_s, 2), "took_s": round(took_s, 2),
            "jobs_per_s": round(jobs / took_s, 1), "creates": len(creates), "repeats": downstream.repeats,
            "worker_rss_mib": rss, "cpu_ms_a_job": cpu,
        }  # fmt: skip


async def memory(jobs: int) -> dict[str, Any]:
    profile = {"models": {"*": {"queue": {"kind": "fixed", "s": 0.1}, "run": {"kind": "fixed", "s": 3600}}}}
    settings = {"BACKSTOP_FIRST_POLL_MS": "600000"}  # else the polls of that many open jobs would be measured
    async with system_of(profile, settings, 1) as system:
        producer = AIOKafkaProducer(bootstrap_servers=system.bootstrap, acks="all", linger_ms=5)
        await producer.start()
        topic = f"{system.runtime.topic_prefix}requests"
        before = worker_rss_mib(system)
        waits = [await producer.send(topic, submit_value(f"open-{n}"), key=f"open-{n}".encode()) for n in range(jobs)]
        for wait in waits:
            await wait
        async with asyncio.timeout(GIVE_UP_S):
            while len(await ledger(system.simulator_url, "creates")) < jobs:
                await asyncio.sleep(1)
        await asyncio.sleep(10)
        await producer.stop()
        return {
            "what": "memory",
            "open_jobs": jobs,
            "worker_rss_mib_before": before,
            "worker_rss_mib": worker_rss_mib(system),
        }


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


def cpu_s(system: System) -> dict[str, float]:
    """Processor seconds of each child so far; the broker's are under `broker`."""
    pids = {name: system.supervisor.pid(name) for name in ("serve", "projection", "worker", "simulator")}
    pids["broker"] = system.broker_pid
    seconds: dict[str, float] = {}
    for name, pid in pids.items():
        if pid is not None:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def cpu_ms_a_job(before: Mapping[str, float], after: Mapping[str, float], jobs: int) -> dict[str, float]:
    return {name: round((after[name] - before[name]) * 1000 / jobs, 2) for name in after}


def worker_rss_mib(system: System) -> float | None:
    pid = system.supervisor.pid("worker")
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    return None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["latency", "burst", "memory", "start"])
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--jobs", type=int)
    options = parser.parse_args()
    if options.what == "latency":
        figures = asyncio.run(latency(options.rate, options.seconds))
    elif options.what == "burst":
        figures = asyncio.run(burst(options.jobs or 3_000))
    elif options.what == "start":
        figures = asyncio.run(start())
    else:
        figures = asyncio.run(memory(options.jobs or 10_000))
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
