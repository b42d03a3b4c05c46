"""Bad weather: a flooded partition, a burst that does not fit in memory at once, a provider that is slow to answer.

Jobs come through Kafka, so that a scene chooses their partition. Added latency: from the webhook's first attempt until
a `read_committed` consumer has the result.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer

from backstop.runtime.kafka.publisher import partition_of
from bench.processes import cpu_s, pss_mib
from bench.system import Downstream, ledger, now_ms, our_pids, spread, submit_value, system_of

RUN = {"kind": "fixed", "s": 1.0}
CALM = {"models": {"*": {"queue": {"kind": "fixed", "s": 0.0}, "run": RUN}}}
SETTINGS = {"BACKSTOP_POLL_RATE_MAX_PER_S": "2000"}
WARM_JOBS, WARM_RATE_PER_S = 750, 50.0
QUIET_RATE_PER_S, QUIET_S, FLOOD_RATE_PER_S = 10.0, 15.0, 500.0
SLOW_S, SLOW_JOBS = 30, 60
PARTITIONS = 4


class Load:
    """Submits jobs to a running system and tells how they fared."""

    def __init__(self, system: Any, producer: AIOKafkaProducer, downstream: Downstream) -> None:
        self.system = system
        self.downstream = downstream
        self._producer = producer
        self._topic = f"{system.runtime.topic_prefix}requests"

    async def submit(self, job_id: str, **metadata: str) -> None:
        value = submit_value(job_id)
        if metadata:
            request = {"model": "gpt-slow", "input": job_id, "metadata": metadata}
            value = json.dumps({"type": "submit", "job_id": job_id, "request": request}).encode()
        await self._producer.send(self._topic, value, key=job_id.encode())

    async def at_rate(self, ids: list[str], rate_per_s: float) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for number, job_id in enumerate(ids):
            await asyncio.sleep(max(0.0, began_s + number / rate_per_s - loop.time()))
            await self.submit(job_id)

    async def ended(self, ids: list[str]) -> None:
        async with asyncio.timeout(240):
            while not self.downstream.seen_ms.keys() >= set(ids):
                await asyncio.sleep(0.05)

    async def added_ms(self, ids: list[str]) -> dict[str, float]:
        sent: dict[str, float] = {}
        for line in await ledger(self.system.simulator_url, "deliveries"):
            sent.setdefault(line["job"], line["at_ms"] - line["took_ms"])
        return spread(self.downstream.seen_ms[each] - sent[each] for each in ids if each in sent)

    def cpu_s(self) -> float:
        return cpu_s(our_pids(self.system).values())


@asynccontextmanager
async def load(profile: dict[str, Any]) -> AsyncIterator[Load]:
    async with system_of(profile, SETTINGS, 1) as system:
        downstream = Downstream(system)
        reading = asyncio.create_task(downstream.run())
        producer = AIOKafkaProducer(bootstrap_servers=system.bootstrap, acks="all", linger_ms=2)
        await producer.start()
        found = Load(system, producer, downstream)
        warm = [f"warm-{number}" for number in range(WARM_JOBS)]
        await found.at_rate(warm, WARM_RATE_PER_S)
        await found.ended(warm)
        try:
            yield found
        finally:
            await producer.stop()
            reading.cancel()


def named(name: str, count: int, belongs: Callable[[int], bool]) -> list[str]:
    """Ids of `count` jobs whose partition `belongs`."""
    found: list[str] = []
    number, numbers = 0, range(PARTITIONS)
    while len(found) < count:
        job_id = f"{name}-{number}"
        if belongs(partition_of(job_id.encode(), numbers, numbers)):
            found.append(job_id)
        number += 1
    return found


async def flood() -> dict[str, Any]:
    """A quiet partition alone, and while another one takes 500 jobs/s."""
    count = round(QUIET_RATE_PER_S * QUIET_S)
    async with load(CALM) as running:
        alone = named("alone", count, lambda partition: partition == 0)
        await running.at_rate(alone, QUIET_RATE_PER_S)
        await running.ended(alone)
        beside = named("beside", count, lambda partition: partition == 0)
        flooding = named("flood", round(FLOOD_RATE_PER_S * QUIET_S), lambda partition: partition == 1)
        async with asyncio.TaskGroup() as group:
            group.create_task(running.at_rate(flooding, FLOOD_RATE_PER_S))
            group.create_task(running.at_rate(beside, QUIET_RATE_PER_S))
        await running.ended(beside)
        quiet, busy = await running.added_ms(alone), await running.added_ms(beside)
        return {
            "alone_ms": quiet, "beside_ms": busy, "p99_ratio": round(busy["p99"] / quiet["p99"], 2),
            "flood_ended": sum(each in running.downstream.seen_ms for each in flooding),
        }  # fmt: skip


async def big_burst(jobs: int = 20_000) -> dict[str, Any]:
    """All at once; the highest memory of the worker, each second."""
    async with load({"models": {"*": {"queue": {"kind": "fixed", "s": 0.0}, "run": {"kind": "fixed", "s": 0.2}}}}) as r:
        ids = [f"burst-{number}" for number in range(jobs)]
        worker = r.system.supervisor.pid("worker")
        began_ms, first_mib, most_mib = now_ms(), pss_mib([worker]), 0.0
        submitting = asyncio.create_task(r.at_rate(ids, 1e9))
        async with asyncio.timeout(240):
            while sum(1 for each in r.downstream.seen_ms if each.startswith("burst")) < jobs:
                most_mib = max(most_mib, pss_mib([worker]))
                await asyncio.sleep(1)
        await submitting
        took_s = (now_ms() - began_ms) / 1_000
        return {
            "jobs": jobs, "jobs_per_s": round(jobs / took_s, 1), "worker_mib_before": round(first_mib),
            "worker_mib_at_most": round(most_mib), "repeats": r.downstream.repeats,
        }  # fmt: skip


async def slow() -> dict[str, Any]:
    """The same quiet load twice; the second time beside creates that the provider answers after 30 s."""
    count = round(QUIET_RATE_PER_S * QUIET_S)
    async with load({**CALM, "stall_real_s": SLOW_S, "slow_real_s": SLOW_S}) as running:
        found: dict[str, dict[str, Any]] = {}
        for name in ("alone", "beside"):
            if name == "beside":
                for number in range(SLOW_JOBS):
                    await running.submit(f"slow-{number}", sim_fault="create_accept_slow")
                await asyncio.sleep(2)
            ids = [f"{name}-{number}" for number in range(count)]
            before_s = running.cpu_s()
            await running.at_rate(ids, QUIET_RATE_PER_S)
            await running.ended(ids)
            cpu = 1_000 * (running.cpu_s() - before_s) / count
            found[name] = {"added_ms": await running.added_ms(ids), "cpu_ms_a_job": round(cpu, 2)}
        alone, beside = found["alone"], found["beside"]
        return {
            **found, "slow_jobs": SLOW_JOBS,
            "p99_ratio": round(beside["added_ms"]["p99"] / alone["added_ms"]["p99"], 2),
            "cpu_ratio": round(beside["cpu_ms_a_job"] / alone["cpu_ms_a_job"], 2),
        }  # fmt: skip
