"""An hour's outage of the provider with thousands of open jobs: its cost for the jobs, and the time of recovery.

By hand: `python -m tests.simulation.outages [JOBS]` (10 000 jobs take some minutes).
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.codec import decode
from schemas.requests import Submit
from schemas.results import RESULT
from streams.policy.polls import PollPolicy
from streams.submission import SubmissionPolicy
from tests.simulation.broker import Broker
from tests.simulation.chaos import Chaos, Life
from tests.simulation.loop import VirtualLoop
from tests.simulation.system import System
from tests.simulation.tables import LocalStores
from tests.simulation.worker import Worker
from tests.simulation.wrong import RIGHT

HOUR_S = 3_600.0
ALL_KINDS = ("503", "never_sent", "429", "401", "429_quota")
"""An overload that says so, refused connections, limits, a key that is refused, no quota."""

BEFORE_S = 60.0
LOAD_S = 120.0
"""The jobs come evenly within this time, half of them before the outage begins."""
RESTARTS_EVERY_S = 100.0
AFTER_S = 120.0
"""After it all must be as before within this time."""

CALM: Mapping[str, Any] = {
    **dict.fromkeys(("crash", "pause", "rebalance", "refuse", "lost_ack", "late", "slow", "store_lost", "gap"), 0.0),
    **dict.fromkeys(("create_fault", "poll_fault", "cancel_fault", "webhook_lost", "webhook_odd", "run_odd"), 0.0),
    "outages": 0, "skew_ms": 0, "static": True, "compacts": False, "batch_records_max": 500,
}  # fmt: skip


@dataclass(slots=True)
class Course:
    """What became of the jobs, and what the provider saw."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """Two minutes after the outage; `open` where there is no result yet."""
    not_accepted: int = 0
    """Jobs that no create was accepted of, two minutes after the outage."""
    creates_away: list[int] = field(default_factory=list)
    """That went out in each minute of the outage."""
    accepts: int = 0
    jobs: int = 0
    defects: tuple[str, ...] = ()

    @property
    def accepted_a_job(self) -> float:
        return self.accepts / self.jobs


class _Away(System):
    def __init__(self, chaos: Chaos, jobs: int, workers: int, restart_s: float | None, models: int) -> None:
        super().__init__(chaos, 0, RIGHT)
        self._models = models
        self.broker = Broker(chaos, 6)
        self.policy = SubmissionPolicy()
        self._count = jobs
        self._workers = workers
        self._restart_s = restart_s
        self.course = Course(jobs=jobs)

    async def weather(self, from_s: float, to_s: float) -> None:
        self._outside_never_dies()
        create = self.chaos.loop.create_task
        for number in range(self._workers):
            self._begin(f"w{number}")
        self._tasks.append(create(self._load()))
        if self._restart_s is not None:
            self._tasks.append(create(self._restarted(self._restart_s)))
        await asyncio.sleep(to_s)
        creates = self.provider.creates
        self.course.creates_away = [creates[minute] for minute in range(int(from_s // 60), int(to_s // 60))]
        await asyncio.sleep(AFTER_S)
        self._judge()

    async def _restarted(self, after_s: float) -> None:
        """One worker after the other dies, and another one takes its place."""
        await asyncio.sleep(after_s)
        for name in sorted(self.workers):
            self.workers[name].life.kill("killed")
            self._begin(name)
            await asyncio.sleep(RESTARTS_EVERY_S)

    def _begin(self, name: str) -> None:
        self._lives += 1
        life = Life(self.chaos, f"{name}.{self._lives}", 0)
        worker = self.workers[name] = Worker(
            life, name, self.broker, self.provider, LocalStores(), self.blobs, self.policy, self.handled, self.wrong,
            polls=PollPolicy(),
        )  # fmt: skip
        worker.start()

    async def _load(self) -> None:
        loop = self.chaos.loop
        for number in range(self._count):
            await asyncio.sleep(number * LOAD_S / self._count - loop.time())
            submit = Submit(job_id=f"job-{number}", request={"model": f"m{number % self._models}", "input": "x"})
            await self._by_kafka(f"job-{number}", submit)

    def _judge(self) -> None:
        course, ends = self.course, dict[str, str]()
        for results in self.broker.results:
            for _, job_id, value in results.records:
                ends.setdefault(job_id, decode(RESULT, value).outcome)
        accepted = {job_id for job_id, _, _ in self.provider.ledger}
        for number in range(self._count):
            course.outcomes[ends.get(f"job-{number}", "open")] += 1
            course.not_accepted += f"job-{number}" not in accepted
        course.accepts = len(self.provider.ledger)
        course.defects = tuple(str(defect) for defect in self.chaos.defects)


def away(
    jobs: int, kinds: Sequence[str], *, each_s: float, workers: int = 1, restart_s: float | None = None, models: int = 1
) -> Course:
    """`jobs` of so many models meet a provider that is away for `each_s` in each of these ways, one after the other.

    From `restart_s` on (seconds of the run) all workers are killed and replaced, one after the other.
    """
    loop = VirtualLoop("order 0")
    asyncio.set_event_loop(loop)
    spans = tuple((BEFORE_S + n * each_s, BEFORE_S + (n + 1) * each_s, kind) for n, kind in enumerate(kinds))
    try:
        chaos = Chaos(0, loop, trace=False, aimed={**CALM, "provider_away": spans})
        system = _Away(chaos, jobs, workers, restart_s, models)
        loop.run_until_complete(system.weather(spans[0][0], spans[-1][1]))
        loop.run_until_complete(system.end())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    return system.course


if __name__ == "__main__":
    import sys

    from tests.simulation.many import prepare

    prepare()
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    for chosen in ((kind,) for kind in ALL_KINDS):
        print(chosen, away(count, chosen, each_s=HOUR_S), flush=True)
