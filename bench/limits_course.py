"""Jobs of unknown size at a provider that limits tokens a minute: what share of the limit is used, how many creates are
refused, who waits how long?

Virtual time, and the product's own admission (`streams.policy.admission`), one for each worker. Beside it: the SDK's
own retries, and admission by the declared `max_output_tokens`.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from random import Random

from bench.limits_scene import Course, Job, Provider, Scene
from schemas.base import Priority
from schemas.codec import decode, encode
from schemas.lanes import LANE_FACT, CreateFact, LaneFact, ProbeClaimed
from streams.policy.admission import Admission, Gone, Grant, NotYet, TooLate
from streams.policy.lanes import HELD_MS, Held, share_of
from streams.policy.limits import LimitRules, read_rules
from streams.policy.shared_limits import SharedLimits
from streams.policy.sizes import Asked
from streams.policy.waiting import Waiter
from streams.workers.lanes import Lanes

PARTITIONS = 12
TICK_MS = 20
LATENCY_MS = 40
DECLARED = 16_000
HOUR_MS = 3_600_000
MODEL = "m"
FAR_MS = 10 * 24 * HOUR_MS
TELL_MS = 200
READ_MS = (20, 150)
"""How long a fact takes to each worker."""
ACCOUNT = "0" * 8


class _Worker:
    def __init__(self, run: "_Run", name: str) -> None:
        self.run, self.name = run, name
        self.partitions: frozenset[int] = frozenset()
        self.admission = Admission(run.rules, ACCOUNT)
        self.lanes = Lanes(lambda: run.now_ms, account=ACCOUNT)
        if run.scene.shares:
            self.lanes.join(run.write)
        self.limits = SharedLimits(self.admission, run.rules, ACCOUNT, name, PARTITIONS)
        self.jobs: dict[bytes, Job] = {}
        self.waiting: dict[bytes, Waiter] = {}
        self.read_ms = 0

    def own(self, partitions: frozenset[int]) -> None:
        self.partitions = partitions
        self.lanes.share = share_of(partitions, PARTITIONS)
        self.limits.own(partitions)
        self.admission.own(partitions, len(partitions) / PARTITIONS, self.run.now_ms)


class _Run:
    def __init__(self, scene: Scene) -> None:
        self.scene, self.random = scene, Random(scene.seed)
        rule = f'[{{"tokens_per_min": {scene.told_limit}}}]' if scene.told_limit else '[{"discover": true}]'
        self.rules: LimitRules = read_rules(rule)
        self.provider = Provider(scene.limit, scene.burst_s)
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
                self.at(self.random.randrange(TICK_MS), partial(self._tick, worker))
                if scene.shares:
                    self.at(self.random.randrange(TELL_MS), partial(self._tell, worker))
            for second, counts in scene.moves:
                self.at(second * 1_000, partial(self._move, counts))
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
        if scene.floods and scene.flood:
            for _ in range(10_000):
                self._come(5 * 60_000, "flood", "normal")
        for _ in range(scene.backlog):
            self._come(scene.backlog_at * 60_000, "t0", "normal")
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
        self.course.came += 1
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
        if self.scene.lies_at is not None:
            partition = job.number % (PARTITIONS // self.scene.workers) * self.scene.workers + self.scene.lies_at
        worker = self._owner(partition)
        key = str(job.number).encode()
        worker.jobs[key] = job
        asked = Asked(job.tenant, MODEL, job.input_tokens * 4, DECLARED)
        waiter = Waiter(partition, key, asked, job.came_ms + FAR_MS, job.priority, retry)
        worker.waiting[key] = waiter
        worker.admission.put(waiter, self.now_ms)

    def _owner(self, partition: int) -> _Worker:
        return next(each for each in self.workers if partition in each.partitions)

    def _move(self, counts: tuple[int, ...]) -> None:
        """Partitions move. The new owner reads from their rows which jobs wait and which run."""
        left = iter(range(PARTITIONS))
        for worker, many in zip(self.workers, counts, strict=True):
            worker.own(frozenset(next(left) for _ in range(many)))
        for worker in self.workers:
            for key, waiter in list(worker.waiting.items()):
                owner = self._owner(waiter.partition)
                if owner is not worker:
                    owner.jobs[key], owner.waiting[key] = worker.jobs[key], worker.waiting.pop(key)
                    owner.admission.put(
                        Waiter(waiter.partition, key, waiter.asked, waiter.deadline_ms, waiter.priority, waiter.retry),
                        self.now_ms,
                    )

    def _tell(self, worker: _Worker) -> None:
        self.at(self.now_ms + TELL_MS, partial(self._tell, worker))
        for fact in worker.limits.tell(self.now_ms):
            self.write(fact)

    def write(self, fact: LaneFact) -> None:
        """All workers read it in the order of the log."""
        for reader in self.workers:
            reader.read_ms = max(reader.read_ms, self.now_ms + self.random.randint(*READ_MS))
            self.at(reader.read_ms, partial(self._read, reader, fact))

    def _read(self, reader: _Worker, fact: LaneFact) -> None:
        read = decode(LANE_FACT, encode(fact))
        if isinstance(read, CreateFact):
            reader.lanes.read(read, self.now_ms)
        else:
            reader.limits.take(read, self.now_ms)

    def _tick(self, worker: _Worker) -> None:
        self.at(self.now_ms + TICK_MS, partial(self._tick, worker))
        while True:
            turn = worker.admission.next(MODEL, self.now_ms, worker.lanes.release)
            match turn:
                case Grant():
                    self._begin(worker, turn)
                case TooLate() | Gone():
                    continue
                case NotYet() | None:
                    return

    def _begin(self, worker: _Worker, grant: Grant) -> None:
        job = worker.jobs[grant.waiter.key]
        worker.waiting.pop(grant.waiter.key, None)
        minute = self.now_ms // 60_000
        self.course.grants[minute] = self.course.grants.get(minute, 0) + 1
        self.course.granted_s[self.now_ms // 1_000] += int(grant.tokens)
        if not job.tries:
            self._waited(job)
            self.reserved.append((grant.tokens, job.input_tokens + job.output_tokens))
        job.tries += 1
        self.at(self.now_ms + LATENCY_MS, lambda: self._create(worker, grant.waiter, job))

    def _create(self, worker: _Worker, waiter: Waiter, job: Job) -> None:
        """As the submitter does: a closed lane holds the create, or lets it go as its probe."""
        command_id = f"{job.number}/{job.tries}"
        asked = worker.lanes.ask(MODEL, command_id)
        if isinstance(asked, ProbeClaimed):
            self.at(self.now_ms + READ_MS[1] + 1, partial(self._probe, worker, waiter, job, command_id))
        elif isinstance(asked, Held):
            self._hold(worker, waiter, job, asked)
        else:
            self._send(worker, waiter, job, command_id)

    def _probe(self, worker: _Worker, waiter: Waiter, job: Job, command_id: str) -> None:
        worker.lanes._claims.pop(MODEL, None)  # noqa: SLF001 - as `Lanes.send` does at the end of its wait
        verdict = worker.lanes.verdict(MODEL, command_id)
        if isinstance(verdict, Held):
            self._hold(worker, waiter, job, verdict)
        else:
            self._send(worker, waiter, job, command_id)

    def _hold(self, worker: _Worker, waiter: Waiter, job: Job, held: Held) -> None:
        worker.admission.refused((waiter.partition, waiter.key), self.now_ms)
        self.at(held.until_ms, partial(self._wait, job, retry=True))

    def _send(self, worker: _Worker, waiter: Waiter, job: Job, command_id: str) -> None:
        place = (waiter.partition, waiter.key)
        if self.provider.away:
            self.course.probes[self.now_ms // 60_000] += 1
            worker.lanes.failed(MODEL, command_id, "account", "invalid_api_key")
            worker.admission.refused(place, self.now_ms)
            self.at(self.now_ms + HELD_MS, partial(self._wait, job, retry=True))
            return
        accepted, told_ms = self.provider.create(job, self.now_ms)
        told = self.provider.told(self.scene.headers)
        if accepted:
            worker.lanes.succeeded(MODEL, command_id)
            self.course.accepted_ms.append(self.now_ms)
        else:
            worker.lanes.failed(MODEL, command_id, "limited", "rate_limit_exceeded", told_ms=told_ms)

        def answered() -> None:
            if accepted:
                worker.admission.accepted(place, self.now_ms, told, LATENCY_MS)
                self.at(self.now_ms + job.run_ms, ended)
            else:
                worker.admission.refused(place, self.now_ms, told, LATENCY_MS, limited=True, told_ms=told_ms)
                self.at(self.now_ms + int(told_ms * (1 + 0.25 * self.random.random())), again)

        def ended() -> None:
            worker.admission.ended(place, (job.input_tokens, job.output_tokens), self.now_ms, ran=True)

        def again() -> None:
            self._wait(job, retry=True)

        self.at(self.now_ms + LATENCY_MS, answered)

    # ---- what others do

    def _send_sdk(self, job: Job) -> None:
        if not job.tries:
            self._waited(job)
        accepted, told_ms = self.provider.create(job, self.now_ms)
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
