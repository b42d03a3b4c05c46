"""The polling policy in virtual time: jobs arrive, webhooks stop and return, a rate limits the polls. Times in s."""

import heapq
import random
from dataclasses import dataclass, field

from bench.polling import LEAF, Times
from streams.policy.latency import Latencies
from streams.policy.learned_polls import REFRESH_MS_MIN, LearnedPolls, PollPrice
from streams.policy.polls import JITTER_HIGH, JITTER_LOW
from streams.policy.webhook_loss import JUDGED_AFTER_MS


@dataclass
class World:
    """What happens, apart from the policy."""

    times: Times
    jobs_per_s: float
    rate_per_s: float
    until_s: float
    outage_s: tuple[float, float] = (1e9, 1e9)
    """Webhooks of ends between these times are lost."""
    loss: float = 0.01
    webhook_s: float = 1.0
    """The mean time from an end to its webhook."""
    late_s: float = 0.0
    """How long after its time a poll is made."""
    seed: int = 1
    queue_instead: bool = False
    """A planted bug: where the rate binds, polls queue, and the price does not rise."""
    judged_by_first: bool = False
    """A planted bug: an end that a poll found before its webhook counts as missed."""


@dataclass
class Ended:
    ended_s: float
    found_s: float
    polls: int
    by_webhook: bool


@dataclass
class Run:
    """What came of it."""

    ends: list[Ended] = field(default_factory=list)
    polls_s: list[float] = field(default_factory=list)
    price_s: list[tuple[float, float]] = field(default_factory=list)
    loss: list[tuple[float, float]] = field(default_factory=list)
    waited_s_max: float = 0.0
    """The longest time without a poll of a job that ran."""

    def delays_s(self, since_s: float, to_s: float) -> list[float]:
        """Delays of ends without a webhook in this time."""
        return [e.found_s - e.ended_s for e in self.ends if since_s <= e.ended_s < to_s and not e.by_webhook]

    def per_s(self, since_s: float, to_s: float) -> float:
        return sum(since_s <= at < to_s for at in self.polls_s) / (to_s - since_s)


@dataclass
class _Job:
    accepted_s: float
    ended_s: float
    polls: int = 0
    found: bool = False
    webhook_s: float = 1e12
    polled_s: float = 0.0


def simulate(world: World, polls: LearnedPolls | None = None) -> Run:
    """Run the world under the learned policy."""
    policy = polls or LearnedPolls(PollPrice(), Latencies())
    return _Simulation(world, policy).run()


class _Simulation:
    def __init__(self, world: World, policy: LearnedPolls) -> None:
        self._world, self._policy = world, policy
        self._chance = random.Random(world.seed)
        self._jobs: dict[int, _Job] = {}
        self._events: list[tuple[float, int, str, int]] = []
        self._number = 0
        self._run = Run()
        self._waiting: dict[int, float] = {}
        self._tokens, self._filled_s, self._serves_s = 1.0, 0.0, 0.0

    def run(self) -> Run:
        self._at(0.0, "arrive", 0)
        self._at(0.0, "refresh", 0)
        while self._events:
            now, _, what, number = heapq.heappop(self._events)
            if now > self._world.until_s:
                break
            getattr(self, f"_{what}")(now, number)
        return self._run

    def _at(self, at_s: float, what: str, number: int) -> None:
        self._number += 1
        heapq.heappush(self._events, (at_s, self._number, what, number))

    def _arrive(self, now: float, number: int) -> None:
        world = self._world
        job = _Job(now, now + world.times.draw(self._chance))
        job.polled_s = now
        self._jobs[number] = job
        self._policy.latencies.began(str(number), LEAF, int(now * 1_000), int(now * 1_000))
        self._policy.arrived(LEAF)
        lost = self._chance.random() < world.loss or world.outage_s[0] <= job.ended_s < world.outage_s[1]
        if not lost:
            job.webhook_s = job.ended_s + self._chance.expovariate(1 / world.webhook_s)
            self._at(job.webhook_s, "webhook", number)
        self._plan(now, number)
        self._at(now + self._chance.expovariate(world.jobs_per_s), "arrive", number + 1)

    def _plan(self, now: float, number: int) -> None:
        job = self._jobs[number]
        age_ms = (now - job.accepted_s) * 1_000
        plan = self._policy.plan(LEAF)
        jitter = self._chance.uniform(JITTER_LOW, JITTER_HIGH)
        spacing_ms = 20_000.0 if plan is None else plan.spacing_ms(age_ms, jitter)
        self._at(now + spacing_ms / 1_000 + self._world.late_s, "due", number)

    def _webhook(self, now: float, number: int) -> None:
        self._policy.loss.heard()
        if not self._jobs[number].found:
            self._waiting[number] = -1.0
            self._serve(now, 0)

    def _due(self, now: float, number: int) -> None:
        if not self._jobs[number].found:
            self._waiting.setdefault(number, now)
            self._serve(now, 0)

    def _serve(self, now: float, _: int) -> None:
        """Poll what waits, as far as the rate allows: webhooks' first, then the most likely to have ended."""
        rate = self._world.rate_per_s
        self._tokens = min(max(1.0, rate), self._tokens + (now - self._filled_s) * rate)
        self._filled_s = now
        while self._waiting and self._tokens >= 1.0:
            self._tokens -= 1.0
            self._poll(now, max(self._waiting, key=lambda each: self._urgency(each, now)))
        if self._waiting and self._serves_s <= now:
            self._serves_s = now + (1.0 - self._tokens) / rate + 1e-6
            self._at(self._serves_s, "serve", 0)

    def _urgency(self, number: int, now: float) -> float:
        if self._waiting[number] < 0:
            return float("inf")
        job = self._jobs[number]
        plan = self._policy.plan(LEAF)
        if plan is None or self._world.queue_instead:
            return -self._waiting[number]
        return plan.urgency((job.polled_s - job.accepted_s) * 1_000, (now - job.accepted_s) * 1_000)

    def _poll(self, now: float, number: int) -> None:
        job, by_webhook = self._jobs[number], self._waiting.pop(number) < 0
        self._run.polls_s.append(now)
        self._run.waited_s_max = max(self._run.waited_s_max, now - job.polled_s)
        job.polled_s = now
        if now < job.ended_s:
            job.polls += 1
            self._plan(now, number)
            return
        job.found = True
        self._policy.latencies.ended(str(number), int((job.ended_s - job.accepted_s) * 1_000), int(now * 1_000))
        self._run.ends.append(Ended(job.ended_s, now, job.polls, job.webhook_s < 1e12))
        if self._world.judged_by_first:
            self._policy.loss.judged(LEAF[0], not by_webhook, int(now * 1_000))
        else:
            self._at(max(now, job.ended_s + JUDGED_AFTER_MS / 1_000), "judge", number)

    def _judge(self, now: float, number: int) -> None:
        job = self._jobs[number]
        self._policy.loss.judged(LEAF[0], job.webhook_s > job.ended_s + JUDGED_AFTER_MS / 1_000, int(now * 1_000))

    def _refresh(self, now: float, _: int) -> None:
        now_ms = int(now * 1_000)
        if self._policy.outdated(now_ms):
            for _step in self._policy.refresh(now_ms, 1e9 if self._world.queue_instead else self._world.rate_per_s):
                pass
            self._run.price_s.append((now, self._policy.price_s))
            self._run.loss.append((now, self._policy.loss.share(LEAF[0], now_ms)))
        self._at(now + REFRESH_MS_MIN / 1_000, "refresh", 0)
