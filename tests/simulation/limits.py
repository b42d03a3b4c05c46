"""Jobs of unknown size at a provider that limits tokens a minute by a rule that it keeps secret: what share of the
limit is used, how many creates are refused, who waits how long?

Virtual time, and the product's own admission (`streams.policy.admission`), one for each worker. Beside it: the SDK's
own retries, and admission by the declared `max_output_tokens`.
"""

import heapq
import math
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Literal

from schemas.base import Priority
from streams.policy.admission import Admission, Grant, NotYet, TooLate
from streams.policy.division import Demand, Shares, shares
from streams.policy.limiter import Told
from streams.policy.limits import LimitRules, read_rules
from streams.policy.sizes import Asked
from streams.policy.waiting import Waiter

Rule = Literal["input", "declared", "actual"]
Method = Literal["backstop", "sdk", "declared"]
PARTITIONS = 12
TICK_MS = 20
LATENCY_MS = 40
DECLARED = 16_000
HOUR_MS = 3_600_000
MODEL = "m"
FAR_MS = 10 * 24 * HOUR_MS


@dataclass(slots=True)
class Job:
    number: int
    tenant: str
    priority: Priority
    input_tokens: int
    output_tokens: int
    run_ms: int
    came_ms: int
    tries: int = 0


class Provider:
    """A bucket of tokens that fills evenly, with a secret charge."""

    def __init__(self, limit: float, rule: Rule, burst_s: float, *, headers: bool) -> None:
        self.limit, self.rule, self.burst_s, self.headers = limit, rule, burst_s, headers
        self.level, self.at_ms = limit * burst_s / 60, 0
        self.away = False
        self.creates = self.refusals = 0
        self.charged: Counter[int] = Counter()
        self.refused: Counter[int] = Counter()
        self.created: Counter[int] = Counter()

    def charge(self, job: Job) -> float:
        match self.rule:
            case "input":
                return job.input_tokens
            case "declared":
                return max(job.input_tokens, DECLARED)
            case "actual":
                return job.input_tokens + job.output_tokens

    def create(self, job: Job, now_ms: int) -> tuple[bool, int, Told | None]:
        """Whether it is accepted, the wait that is told, and the headers."""
        capacity = self.limit * self.burst_s / 60
        self.level = min(self.level + (now_ms - self.at_ms) * self.limit / 60_000, capacity)
        self.at_ms = now_ms
        self.creates += 1
        self.created[now_ms // 60_000] += 1
        charge = min(self.charge(job), capacity)
        accepted = self.level >= charge
        if accepted:
            self.level -= charge
            self.charged[now_ms // 60_000] += int(charge)
        else:
            self.refusals += 1
            self.refused[now_ms // 60_000] += 1
        told = None
        if self.headers:
            reset_ms = math.ceil((capacity - self.level) * 60_000 / self.limit)
            told = Told(tokens_limit=int(self.limit), tokens_remaining=int(self.level), tokens_reset_ms=reset_ms)
        return accepted, math.ceil((charge - self.level) * 60 / self.limit) * 1_000, told


@dataclass(frozen=True, slots=True)
class Scene:
    method: Method = "backstop"
    workers: int = 1
    rule: Rule = "actual"
    headers: bool = True
    limit: float = 100_000
    burst_s: float = 60.0
    told_limit: float | None = 100_000
    """What the operator configured."""
    minutes: int = 15
    seed: int = 1
    changes: tuple[tuple[int, float], ...] = ()
    """(minute, limit): without notice."""
    floods: bool = False
    """Ten tenants: nine submit steadily, and one drops 10,000 jobs at the fifth minute."""
    bulk: bool = False
    """A bulk backlog, and some interactive jobs."""
    interactive: bool = False
    """Interactive jobs, a few a minute."""
    load: float = 1.5
    """Submitted tokens over the limit."""
    away: tuple[int, int] | None = None
    """Minutes in which the lane is held: no grants."""


@dataclass(slots=True)
class Course:
    scene: Scene
    used: dict[int, float] = field(default_factory=dict)
    """By minute: the share of the limit that was charged."""
    refusals: float = 0.0
    """Refused creates over jobs accepted, after the fifth minute."""
    refused_first: float = 0.0
    waits_ms: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Of each tenant or class."""
    refused: dict[int, int] = field(default_factory=dict)
    gave_up: int = 0
    error: float = 0.0
    """Reserved over real tokens, of the last 1,000 jobs, less 1."""
    grants: dict[int, int] = field(default_factory=dict)

    def share(self, first: int, last: int) -> float:
        return sum(self.used.get(minute, 0.0) for minute in range(first, last)) / (last - first)

    def wait_ms(self, who: str, part: float = 0.99) -> int:
        waits = sorted(self.waits_ms[who])
        return waits[min(int(part * len(waits)), len(waits) - 1)] if waits else 0


class _Worker:
    def __init__(self, run: "_Run", name: str) -> None:
        self.run, self.name = run, name
        self.partitions: frozenset[int] = frozenset()
        self.admission = Admission(run.rules, "a", 0)
        self.jobs: dict[bytes, Job] = {}
        self.shares = Shares(1.0)
        self.demands: dict[str, Demand] = {}
        self.used: dict[str, float] = {}
        self.ready_ms = 0

    def own(self, partitions: frozenset[int]) -> None:
        self.partitions = partitions
        base = len(partitions) / PARTITIONS
        self.shares = Shares(base)
        self.demands.clear()
        self.admission.own(partitions, base)

    def divide(self, now_ms: int) -> None:
        limiter = self.admission.limiter(MODEL)
        limit = limiter.tokens_per_min if limiter else None
        if not limit:
            return
        division = shares(self.demands, limit, PARTITIONS, now_ms)
        self.shares.divided(None if division is None else division.get(self.name))
        all_used = sum(self.used.values())
        of_all = self.used.get(self.name, 0.0) / all_used if all_used else self.shares.base
        self.admission.shared(MODEL, self.shares.part, of_all, now_ms)


class _Run:
    def __init__(self, scene: Scene) -> None:
        self.scene, self.random = scene, Random(scene.seed)
        rule = f'[{{"tokens_per_min": {scene.told_limit}}}]' if scene.told_limit else ""
        self.rules: LimitRules = read_rules(rule)
        self.provider = Provider(scene.limit, scene.rule, scene.burst_s, headers=scene.headers)
        self.now_ms = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self.course = Course(scene)
        self.reserved: deque[tuple[float, int]] = deque(maxlen=1_000)
        self.workers = [_Worker(self, f"w{number}") for number in range(scene.workers)]
        for number, worker in enumerate(self.workers):
            worker.own(frozenset(p for p in range(PARTITIONS) if p % scene.workers == number))
        self._numbers = count()

    def at(self, ms: int, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (ms, next(self._order), act))

    def go(self) -> Course:
        scene = self.scene
        end_ms = scene.minutes * 60_000
        for minute, limit in scene.changes:
            self.at(minute * 60_000, lambda limit=limit: setattr(self.provider, "limit", limit))  # type: ignore[misc]
        if scene.away:
            self.at(scene.away[0] * 60_000, lambda: setattr(self.provider, "away", True))
            self.at(scene.away[1] * 60_000, lambda: setattr(self.provider, "away", False))
        self._submit(end_ms)
        if scene.method == "backstop":
            for worker in self.workers:
                self.at(self.random.randrange(TICK_MS), lambda worker=worker: self._tick(worker))  # type: ignore[misc]
                self.at(self.random.randrange(1_000), lambda worker=worker: self._tell(worker))  # type: ignore[misc]
        while self._heap and self._heap[0][0] <= end_ms:
            self.now_ms, _, act = heapq.heappop(self._heap)
            act()
        return self._judged()

    # ---- jobs

    def _submit(self, end_ms: int) -> None:
        scene = self.scene
        mean = 500 + 500 * math.exp(0.5)  # Of `_job`: input, and a lognormal output with sigma 1.
        per_ms = scene.load * scene.limit / mean / 60_000
        at_ms = 0.0
        tenants = [f"t{number}" for number in range(9)]
        while at_ms < end_ms:
            at_ms += self.random.expovariate(per_ms)
            tenant = self.random.choice(tenants) if scene.floods else "t0"
            self._come(int(at_ms), tenant, "bulk" if scene.bulk else "normal")
        if scene.floods:
            for _ in range(10_000):
                self._come(5 * 60_000, "flood", "normal")
        if scene.interactive:
            at_ms = 0.0
            while at_ms < end_ms:
                at_ms += self.random.expovariate(10 / 60_000)
                self._come(int(at_ms), "t0", "interactive")

    def _come(self, at_ms: int, tenant: str, priority: Priority) -> None:
        random = self.random
        job = Job(
            next(self._numbers), tenant, priority, random.randint(200, 800),
            min(DECLARED, int(500 * math.exp(random.gauss(0, 1)))),
            int(1_000 * math.exp(random.gauss(2.0, 0.6))), at_ms,
        )  # fmt: skip
        self.at(at_ms, lambda: self._came(job))

    def _came(self, job: Job) -> None:
        match self.scene.method:
            case "backstop":
                self._wait(job, retry=False)
            case "sdk":
                self._send_sdk(job)
            case "declared":
                self._queue_declared(job)

    # ---- the product

    def _wait(self, job: Job, *, retry: bool) -> None:
        partition = job.number % PARTITIONS
        worker = next(each for each in self.workers if partition in each.partitions)
        key = str(job.number).encode()
        worker.jobs[key] = job
        asked = Asked(job.tenant, MODEL, job.input_tokens * 4, DECLARED)
        waiter = Waiter(partition, key, asked, job.came_ms + FAR_MS, job.priority, retry)
        worker.admission.put(waiter, self.now_ms)

    def _tick(self, worker: _Worker) -> None:
        self.at(self.now_ms + TICK_MS, lambda: self._tick(worker))
        while not self.provider.away:
            turn = worker.admission.next(MODEL, self.now_ms)
            match turn:
                case Grant():
                    self._begin(worker, turn)
                case TooLate():
                    continue
                case NotYet() | None:
                    return

    def _begin(self, worker: _Worker, grant: Grant) -> None:
        job = worker.jobs[grant.waiter.key]
        minute = self.now_ms // 60_000
        self.course.grants[minute] = self.course.grants.get(minute, 0) + 1
        if not job.tries:
            self._waited(job)
            self.reserved.append((grant.tokens, job.input_tokens + job.output_tokens))
        job.tries += 1
        self.at(self.now_ms + LATENCY_MS, lambda: self._create(worker, grant.waiter, job))

    def _create(self, worker: _Worker, waiter: Waiter, job: Job) -> None:
        accepted, told_ms, told = self.provider.create(job, self.now_ms)
        place = (waiter.partition, waiter.key)

        def answered() -> None:
            if accepted:
                worker.admission.accepted(place, self.now_ms, told)
                self.at(self.now_ms + job.run_ms, ended)
            else:
                worker.admission.refused(place, self.now_ms, limited=True, told_ms=told_ms, told=told)
                self.at(self.now_ms + int(told_ms * (1 + 0.25 * self.random.random())), again)

        def ended() -> None:
            worker.admission.ended(place, (job.input_tokens, job.output_tokens), self.now_ms, ran=True)

        def again() -> None:
            self._wait(job, retry=True)

        self.at(self.now_ms + LATENCY_MS, answered)

    def _tell(self, worker: _Worker) -> None:
        self.at(self.now_ms + 1_000, lambda: self._tell(worker))
        limiter = worker.admission.limiter(MODEL)
        used = limiter.used_per_min(self.now_ms) if limiter else 0.0
        demand = worker.admission.demand(MODEL, self.now_ms)
        partitions = worker.partitions

        def heard() -> None:
            for other in self.workers:
                other.demands[worker.name] = Demand(partitions, demand, self.now_ms)
                other.used[worker.name] = used

        self.at(self.now_ms + 100, heard)
        self.at(self.now_ms + 300, lambda: worker.divide(self.now_ms))

    # ---- what others do

    def _send_sdk(self, job: Job) -> None:
        if not job.tries:
            self._waited(job)
        accepted, told_ms, _ = self.provider.create(job, self.now_ms)
        if accepted:
            return
        job.tries += 1
        if job.tries > 2:
            self.course.gave_up += 1
            return
        backoff_ms = min(500 * 2**job.tries, 8_000) * (1 - 0.25 * self.random.random())
        wait_ms = told_ms if 0 < told_ms <= 120_000 else backoff_ms
        self.at(self.now_ms + int(wait_ms), lambda: self._send_sdk(job))

    _declared_level = 0.0
    _declared_at_ms = 0

    def _queue_declared(self, job: Job) -> None:
        if not hasattr(self, "_queued"):
            self._queued: deque[Job] = deque()
            self._drain_declared()
        self._queued.append(job)

    def _drain_declared(self) -> None:
        self.at(self.now_ms + TICK_MS, self._drain_declared)
        limit = self.scene.told_limit or self.scene.limit
        filled = self._declared_level + (self.now_ms - self._declared_at_ms) * limit / 60_000
        self._declared_level, self._declared_at_ms = min(filled, limit), self.now_ms
        while self._queued and self._declared_level >= self._queued[0].input_tokens + DECLARED:
            job = self._queued.popleft()
            self._declared_level -= job.input_tokens + DECLARED
            self._waited(job)
            self.provider.create(job, self.now_ms)

    # ---- the figures

    def _waited(self, job: Job) -> None:
        if self.now_ms >= 5 * 60_000:
            self.course.waits_ms[job.tenant].append(self.now_ms - job.came_ms)
            self.course.waits_ms[job.priority].append(self.now_ms - job.came_ms)

    def _judged(self) -> Course:
        course, provider, limit = self.course, self.provider, self.scene.limit
        changes = dict(self.scene.changes)
        for minute in range(self.scene.minutes):
            limit = changes.get(minute, limit)
            course.used[minute] = provider.charged[minute] / limit
        course.refused = dict(provider.refused)
        late = range(5, self.scene.minutes)
        course.refusals = sum(provider.refused[m] for m in late) / max(1, sum(provider.created[m] for m in late))
        first = range(5)
        course.refused_first = sum(provider.refused[m] for m in first) / max(1, sum(provider.created[m] for m in first))
        if self.reserved:
            course.error = sum(a for a, _ in self.reserved) / max(1, sum(b for _, b in self.reserved)) - 1
        return course


def limited(scene: Scene) -> Course:
    """Let the jobs of `scene` pass."""
    return _Run(scene).go()


def _line(name: str, course: Course) -> str:
    last = course.scene.minutes
    return (
        f"{name:<44} used {100 * course.share(5, last):5.1f} % "
        f"(min {100 * min(course.used[m] for m in range(5, last)):5.1f}), "
        f"refused {100 * course.refusals:5.2f} % (first 5 min {100 * course.refused_first:5.2f}), "
        f"estimate {100 * course.error:+5.1f} %, gave up {course.gave_up}"
    )


def main() -> None:
    minutes = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    rules: tuple[Rule, ...] = ("actual", "input", "declared")
    for rule in rules:
        for method in ("sdk", "declared"):
            name = f"{rule}: {method}"
            print(_line(name, limited(Scene(method=method, rule=rule, minutes=minutes))), flush=True)
        for workers in (1, 2, 4):
            for headers in (True, False):
                for burst_s in (60.0, 10.0):
                    scene = Scene(workers=workers, rule=rule, headers=headers, burst_s=burst_s, minutes=minutes)
                    name = f"{rule}: backstop, {workers} workers, headers {headers}, {burst_s:.0f} s"
                    print(_line(name, limited(scene)), flush=True)
    for limit in (50_000, 200_000):
        course = limited(Scene(minutes=20, changes=((10, limit),), told_limit=None, load=3.0))
        shown = ", ".join(f"{100 * course.used[m]:.0f}/{course.refused.get(m, 0)}" for m in range(20))
        print(f"limit 100k → {limit}: used % / refused by minute: {shown}")


if __name__ == "__main__":
    main()
