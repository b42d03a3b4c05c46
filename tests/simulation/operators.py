"""Operators in a simulated run: jobs have priorities and wait under limits, and operators change and retry them.

All draws are their own: the faults of a seed are the same with and without operators.
"""

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any, Final

from backstop.runtime.blobs import Bodies
from schemas.base import DEFAULT_TENANT
from schemas.codec import decode
from schemas.jobs import JobChanged, RetryOf
from schemas.requests import Submit
from schemas.results import RESULT
from streams.policy.limits import PRIORITIES, read_rules
from streams.retries import own_id_of_retry, prepare_retry
from streams.submission import to_submitted
from tests.simulation.worker import INLINE_BYTES_MAX

if TYPE_CHECKING:
    from tests.simulation.system import System

LIMITS: Final = read_rules('[{"requests_per_min": 400, "concurrent": 12}]')
"""Tight enough that jobs wait, and wide enough that most end in time."""

BETWEEN_S: Final = (0.2, 2.0)
AT_ONCE_MAX: Final = 8
FROM_NOW_MS: Final = (-1_000, 0, 1, 2_000, 30_000, 60_000, 70_000)
RETRIES_EACH: Final = 2
"""A retry is asked for so often: it must be one job."""


def turn_of(seed: int, job_id: str) -> dict[str, Any]:
    """The fields of the job's submission that need a run with operators."""
    return {"priority": Random(f"turn {seed} {job_id}").choice(PRIORITIES)}


class Operators:
    def __init__(self, system: "System", seed: int) -> None:
        self._system = system
        self._random = Random(f"operators {seed}")

    async def run(self) -> None:
        while self._system.chaos.on:
            await asyncio.sleep(self._random.uniform(*BETWEEN_S))
            jobs = sorted(self._system.upstream.bodies)
            if not jobs:
                continue
            if self._random.random() < 0.3:
                await self._retry()
                continue
            for job_id in self._random.sample(jobs, min(len(jobs), self._random.randint(1, AT_ONCE_MAX))):
                await self._change(job_id)

    async def _change(self, job_id: str) -> None:
        system, random = self._system, self._random
        at_ms = system.now_ms()
        priority = random.choice((None, *PRIORITIES))
        deadline_ms = None if random.random() < 0.5 else at_ms + random.choice(FROM_NOW_MS)
        if deadline_ms is not None and job_id in system.upstream.acknowledged:
            # Also where the fact was not acknowledged: it may be in the log.
            known_ms = system.upstream.acknowledged[job_id]
            system.upstream.acknowledged[job_id] = max(known_ms, deadline_ms)
        system.chaos.met.add("changed a job")
        await system.say(
            JobChanged(
                id=f"{job_id}/changed/{at_ms}", at_ms=at_ms, job_id=job_id, tenant=DEFAULT_TENANT, ingress="http",
                priority=priority, deadline_at_ms=deadline_ms, why="simulated", by="operator",
            )
        )  # fmt: skip

    async def _retry(self) -> None:
        """Retry one ended job, more than once, as by two operators."""
        system = self._system
        ended = sorted(
            job_id
            for log in system.broker.results
            for _, job_id, value in log.records
            if decode(RESULT, value).outcome in ("failed", "expired", "cancelled")
        )
        known = [job_id for job_id in ended if job_id in system.upstream.bodies]
        if not known:
            return
        job_id = self._random.choice(known)
        body = system.upstream.bodies[job_id]
        submit = Submit(request=body.request, timeout_ms=20_000, tags=body.tags, priority=body.priority)
        prepared = prepare_retry(submit, RetryOf(job_id=job_id, why="simulated", by="operator"))
        retry_id = own_id_of_retry(job_id)
        system.chaos.met.add("retried an ended job")
        for _ in range(RETRIES_EACH):
            at_ms = system.now_ms()
            fact = await to_submitted(
                prepared, job_id=retry_id, tenant=DEFAULT_TENANT, ingress="http", at_ms=at_ms, policy=system.policy,
                bodies=Bodies(system.blobs, INLINE_BYTES_MAX), limits=system.chaos.limits,
            )  # fmt: skip
            if await system.say(fact):
                known_ms = system.upstream.acknowledged.get(retry_id, 0)
                system.upstream.acknowledged[retry_id] = max(known_ms, at_ms + 20_000)
                system.upstream.bodies.setdefault(retry_id, submit)
