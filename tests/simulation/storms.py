"""A steady load through minutes with faults and some without. Measures the share of jobs that expire, by minute.

The faults are those under which the system once decayed: workers die and come back, the callers' group moves, the
provider allows few calls and fails some, half of the webhooks are lost. Facts stay whole: other runs check invariants.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from schemas.codec import decode
from schemas.requests import Submit
from schemas.results import RESULT
from streams.policy.polls import PollPolicy
from tests.simulation.broker import Broker
from tests.simulation.chaos import Chaos, Life
from tests.simulation.loop import VirtualLoop
from tests.simulation.system import System
from tests.simulation.tables import LocalStores
from tests.simulation.worker import Worker
from tests.simulation.wrong import RIGHT, Wrong

POLLS = PollPolicy(
    first_poll_ms=3_000, spacing_factor=0.5, spacing_min_ms=1_000, spacing_max_ms=5_000, report_ms=15_000
)
PARTITIONS = 6
TIMEOUT_MS = 40_000

MIXTURE: Mapping[str, Any] = {
    **dict.fromkeys(
        ("crash", "pause", "rebalance", "refuse", "lost_ack", "late", "slow", "store_lost", "gap", "webhook_odd"), 0.0
    ),
    "outages": 0, "skew_ms": 0, "static": False, "compacts": False, "batch_records_max": 500,
    "create_fault": 0.05, "poll_fault": 0.2, "cancel_fault": 0.5, "webhook_lost": 0.5, "run_only": "stuck",
    "run_odd": 0.1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Storm:
    jobs_per_s: float = 6.0
    calls_per_s: float = 9.0
    """The limit of one worker."""
    workers: int = 3
    broken_s: int = 300
    calm_s: int = 0
    """Time after the faults in which the load goes on."""
    kill_every_s: float = 6.4
    restart_s: float = 7.0
    rebalance_every_s: float = 15.0


@dataclass(slots=True)
class Course:
    """The course of the load."""

    outcomes: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Minute of submission → the outcomes of its jobs."""
    answers: int = 0
    repeats: int = 0
    uncommitted: int = 0
    """The callers' backlog of commands at the end."""
    defects: tuple[str, ...] = ()

    def expired_share(self, minute: int) -> float:
        counts = self.outcomes[minute]
        return (counts["expired"] + counts["open"]) / counts.total()

    def __str__(self) -> str:
        shares = ", ".join(f"{100 * self.expired_share(minute):.0f}" for minute in sorted(self.outcomes))
        return f"expired {shares} %; {self.repeats} of {self.answers} answers repeated; {self.uncommitted} uncommitted"


class _Stormy(System):
    def __init__(self, chaos: Chaos, storm: Storm, wrong: Wrong) -> None:
        super().__init__(chaos, 0, wrong)
        self.broker = Broker(chaos, PARTITIONS)
        self.policy = self.policy.model_copy(
            update={"retries_max": 2, "rejections_max": 100, "backoff_base_ms": 200, "backoff_max_ms": 3_000,
                    "command_valid_ms": 8_000, "adoption_grace_ms": 3_000, "missing_grace_ms": 3_000}
        )  # fmt: skip
        self._storm = storm
        self._random = Random(f"storm {chaos.random.random()}")
        self.submitted_s: dict[str, float] = {}

    async def weather(self) -> None:
        storm, create = self._storm, self.chaos.loop.create_task
        self._outside_never_dies()
        self._tasks += [create(self._restarted(f"w{number}")) for number in range(storm.workers)]
        self._tasks += [create(self._load()), create(self._kills()), create(self._moves())]
        await asyncio.sleep(storm.broken_s)
        self.chaos.calm_down()
        await asyncio.sleep(storm.calm_s + TIMEOUT_MS / 1_000 + 10)

    async def _load(self) -> None:
        storm, loop = self._storm, self.chaos.loop
        for number in range(int(storm.jobs_per_s * (storm.broken_s + storm.calm_s))):
            await asyncio.sleep(number / storm.jobs_per_s - loop.time())
            job_id = f"job-{number}"
            self.submitted_s[job_id] = loop.time()
            submit = Submit(job_id=job_id, request={"model": "m", "input": "x"}, timeout_ms=TIMEOUT_MS)
            await self._by_kafka(job_id, submit)

    async def _restarted(self, name: str) -> None:
        storm, stores = self._storm, LocalStores()
        while True:
            self._lives += 1
            life = Life(self.chaos, f"{name}.{self._lives}", 0)
            worker = self.workers[name] = Worker(
                life, name, self.broker, self.provider, stores, self.blobs, self.policy, self.handled, self.wrong,
                polls=POLLS, calls_per_s=storm.calls_per_s,
            )  # fmt: skip
            worker.start()
            await life.ended.wait()
            await life.gone()
            del self.workers[name]
            await asyncio.sleep(self._random.uniform(0.7, 1.5) * storm.restart_s)

    async def _kills(self) -> None:
        while True:
            await asyncio.sleep(self._random.expovariate(1 / self._storm.kill_every_s))
            if self.chaos.on and self.workers:
                self.workers[self._random.choice(sorted(self.workers))].life.kill("killed")

    async def _moves(self) -> None:
        while True:
            await asyncio.sleep(self._random.expovariate(1 / self._storm.rebalance_every_s))
            if self.chaos.on:
                self.broker.groups["poller"].rebalance()

    def course(self) -> Course:
        course, ends = Course(defects=tuple(self.chaos.defects)), dict[str, str]()
        for results in self.broker.results:
            for _, job_id, value in results.records:
                ends.setdefault(job_id, decode(RESULT, value).outcome)
        for job_id, at_s in self.submitted_s.items():
            course.outcomes[int(at_s // 60)][ends.get(job_id, "open")] += 1
        ids: Counter[str] = Counter()
        for log in self.broker.of_topic("responses"):
            ids.update(r.message_id for r in log.records if r.message_id.endswith(("/observed", "/failed")))
        course.answers, course.repeats = ids.total(), ids.total() - len(ids)
        committed = self.broker.groups["poller"].committed
        course.uncommitted = sum(
            log.end - committed.get(("polls", log.partition), 0) for log in self.broker.of_topic("polls")
        )
        return course


def weather(seed: int, storm: Storm, wrong: Wrong = RIGHT) -> Course:
    """Let the load of `storm` pass, drawn from the seed."""
    loop = VirtualLoop(f"order {seed}")
    asyncio.set_event_loop(loop)
    try:
        chaos = Chaos(seed, loop, trace=False, aimed=MIXTURE)
        system = _Stormy(chaos, storm, wrong)
        loop.run_until_complete(system.weather())
        course = system.course()
        loop.run_until_complete(system.end())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    return course


if __name__ == "__main__":
    import sys

    from tests.simulation.many import prepare

    prepare()
    for number in sys.argv[1:]:
        print(number, weather(int(number), Storm(broken_s=900, calm_s=180)))
