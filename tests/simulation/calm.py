"""A run without faults, in which each job has the same submission, run time and webhook whatever the policy is.

So what a replay of one run under another policy says can be compared with a run under that policy.
"""

import asyncio
from dataclasses import dataclass, fields
from random import Random
from typing import Any

from backstop.runtime.records import Record
from schemas.requests import Submit
from streams.policy.polls import PollPolicy
from tests.simulation.chaos import Chaos, Mixture
from tests.simulation.loop import VirtualLoop
from tests.simulation.provider import Provider, Response
from tests.simulation.run import quiet
from tests.simulation.system import System
from tests.simulation.worker import POLLS
from tests.simulation.wrong import RIGHT

TIMEOUT_MS = 90_000
FAULTS = (
    "crash", "pause", "rebalance", "refuse", "lost_ack", "late", "slow", "store_lost", "gap", "create_fault",
    "poll_fault", "cancel_fault", "webhook_lost", "webhook_odd", "run_odd", "skew_ms", "outages",
)  # fmt: skip
CALM: dict[str, Any] = {
    **{each.name: 0 for each in fields(Mixture) if each.name in FAULTS}, "batch_records_max": 50, "adopted_per": 0,
    "arrival_s": 60.0, "faults_end_s": 60.0, "static": False, "compacts": False, "hedge": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """What both runs share."""

    jobs: int = 60
    webhook_lost: float = 0.3
    failed: float = 0.0
    """The share of attempts that fail without usage."""
    hedged: bool = False
    """All jobs may have a second attempt beside a slow one."""
    hedge_share: float | None = None
    """None: as in other simulations, with runs known from before. Otherwise a worker that has to learn them."""
    arrival_s: float = 60.0
    seed: int = 1


class CalmProvider(Provider):
    """Draws what happens to an attempt from its job and number alone."""

    scene: Scene

    def accept(self, job_id: str, attempt: str, tenant: str) -> Response:
        random, now_s = Random(f"{self.scene.seed} {job_id} {attempt}"), self.chaos.loop.time()
        run_s = min(60.0, random.lognormvariate(2.0, 0.8))
        end = "failed_server" if random.random() < self.scene.failed else "completed"
        lost = random.random() < self.scene.webhook_lost
        response = Response(
            f"resp_{job_id}_{attempt}", job_id, attempt, tenant, now_s, now_s, now_s + run_s, end, seen_after_s=now_s
        )
        self.ledger.append((job_id, attempt, response.id))
        self.responses[response.id] = response
        if not lost:
            self._webhook_in(run_s + 0.05, f"wh_{response.id}_0", "response.completed", response)
        return response


class CalmSystem(System):
    scene: Scene

    async def _host(self, name: str, starts_s: float) -> None:
        """One worker: what each remembers of webhooks is its own."""
        if name == "w0":
            await super()._host(name, starts_s)

    async def _submit(self, job_id: str) -> None:
        await asyncio.sleep(Random(f"{self.scene.seed} {job_id}").random() * self.scene.arrival_s)
        hedge = True if self.scene.hedged else None
        submit = Submit(job_id=job_id, request={"model": "m", "input": "x"}, timeout_ms=TIMEOUT_MS, hedge=hedge)
        self.upstream.bodies[job_id] = submit
        await self._by_http(job_id, submit)
        self.upstream.done += 1


def calm_run(
    scene: Scene, polls: PollPolicy = POLLS, *, learned: bool = False, retries: dict[str, int] | None = None
) -> list[Record]:
    """The records of `jobs`, `responses` and `results` of a run."""
    quiet()
    loop = VirtualLoop(f"order {scene.seed}")
    asyncio.set_event_loop(loop)
    try:
        chaos = Chaos(scene.seed, loop, trace=False, aimed=CALM)
        chaos._away.clear()
        system = CalmSystem(chaos, scene.jobs, RIGHT, learned=learned, polls=polls)
        system.scene = scene
        if scene.hedge_share is not None:
            system.hedging = {"hedge_share": scene.hedge_share, "knows_runs": False}
        system.provider = CalmProvider(chaos, system._webhook)
        system.provider.scene = scene
        system.policy = system.policy.model_copy(update=retries or {})
        loop.run_until_complete(system.run(lambda: None))
        loop.run_until_complete(system.end())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    return records_of(system)


def records_of(system: System) -> list[Record]:
    logs = [log for topic in ("jobs", "responses") for log in system.broker.of_topic(topic)]
    found = [
        Record(each.topic, each.partition, each.offset, each.timestamp_ms, each.key, each.value)
        for log in logs
        for each in log.records
    ]
    for partition, log in enumerate(system.broker.results):
        found += [
            Record("results", partition, offset, 0, job_id.encode(), value) for offset, job_id, value in log.records
        ]
    return found
