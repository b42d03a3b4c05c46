"""Hedging in virtual time: jobs of a known distribution, with the product's own estimator and policy. No broker.

Extra creates, wins, and the run times of the jobs, beside those without hedges and those of the theory: a hedge at the
exact quantile. 5,000 jobs an hour, lognormal with a median of 60 s and sigma 0.8 unless said otherwise. All times in s.
Nothing is known at the start. `bench.hedging_goals` prints it, and asserts the goals.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import exp, sqrt

from streams.policy.hedge_permits import HedgePermits, NoHedgeNow, Slow
from streams.policy.hedging import LEVEL_MAX
from streams.policy.latency import Latencies

MODEL = "m"
MEDIAN_S, SIGMA = 60.0, 0.8
RATE_S = 3_600 / 5_000
DEADLINE_S = 6 * 3_600.0
FIRST_POLL_S = 20.0
"""A response that was accepted while the age was not known asks with its first poll."""

Pair = Callable[[random.Random], tuple[float, float]]
"""Run times of the first attempt and of its hedge."""


def _normal(chance: random.Random) -> float:
    return MEDIAN_S * exp(SIGMA * chance.gauss(0, 1))


def independent(chance: random.Random) -> tuple[float, float]:
    return _normal(chance), _normal(chance)


def slow_machines(chance: random.Random) -> tuple[float, float]:
    """One attempt in 20 is 10 times slower."""
    first, second = (_normal(chance) * (10 if chance.random() < 0.05 else 1) for _ in range(2))
    return first, second


def stuck(chance: random.Random) -> tuple[float, float]:
    """One attempt in 100 is stuck for an hour."""
    first, second = (3_600.0 if chance.random() < 0.01 else _normal(chance) for _ in range(2))
    return first, second


def pareto(chance: random.Random) -> tuple[float, float]:
    return 29.85 * chance.paretovariate(1.5), 29.85 * chance.paretovariate(1.5)


def correlated(of: float) -> Pair:
    def pair(chance: random.Random) -> tuple[float, float]:
        first, other = chance.gauss(0, 1), chance.gauss(0, 1)
        second = of * first + sqrt(1 - of * of) * other
        return MEDIAN_S * exp(SIGMA * first), MEDIAN_S * exp(SIGMA * second)

    return pair


MODELS: dict[str, Pair] = {
    "independent": independent, "5 % are 10 times slower": slow_machines, "1 % are stuck for 1 h": stuck,
    "Pareto 1.5": pareto, "correlation 0.5": correlated(0.5), "correlation 0.9": correlated(0.9),
}  # fmt: skip

TABLE: dict[tuple[str, float], tuple[float, float]] = {
    ("independent", 0.02): (349, 443), ("independent", 0.05): (294, 389),
    ("5 % are 10 times slower", 0.02): (810, 1_008), ("5 % are 10 times slower", 0.05): (459, 726),
    ("1 % are stuck for 1 h", 0.02): (435, 578), ("1 % are stuck for 1 h", 0.05): (323, 457),
    ("Pareto 1.5", 0.02): (449, 565), ("Pareto 1.5", 0.05): (288, 429),
    ("correlation 0.5", 0.02): (376, 562), ("correlation 0.5", 0.05): (342, 519),
    ("correlation 0.9", 0.02): (386, 696), ("correlation 0.9", 0.05): (385, 677),
}  # fmt: skip
"""The theory: p99 and p99.9 by model and share, for hedges at the exact quantile that never stop."""


@dataclass(frozen=True)
class Scene:
    pair: Pair = independent
    share: float = 0.02
    jobs: int = 100_000
    seed: int = 1
    brown_out_s: tuple[float, float] | None = None
    """From and to: all run times are 5 times as long, and a third of the creates meet a rate limit first."""
    losers_censored: bool = True
    """False: a planted bug, which the figures must show."""
    budget_full: bool = False
    """True: a planted bug, too: the budget holds all it can hold at the start."""


@dataclass(slots=True)
class Job:
    began_s: float
    run_s: tuple[float, float]
    hedged_s: float | None = None
    done_s: float | None = None
    asks: int = 0


@dataclass
class Course:
    scene: Scene
    spans_s: list[float] = field(default_factory=list)
    hedges_s: list[float] = field(default_factory=list)
    won: int = 0
    ended_before_first_hedge: int = 0
    limited_s: list[float] = field(default_factory=list)
    stopped_after: int | None = None
    """Hedges that had begun when one was first refused because hedges of its class lose."""

    @property
    def extra(self) -> float:
        return len(self.hedges_s) / self.scene.jobs

    @property
    def wins(self) -> float:
        return self.won / max(1, len(self.hedges_s))

    def quantile_s(self, share: float) -> float:
        return sorted(self.spans_s)[int(share * len(self.spans_s))]


class _Run:
    def __init__(self, scene: Scene) -> None:
        self.scene, self.course = scene, Course(scene)
        self.chance = random.Random(scene.seed)
        self.latencies = Latencies()
        self.hedges = HedgePermits(self.latencies, scene.share)
        if scene.budget_full:
            self.hedges._budget.level = LEVEL_MAX  # noqa: SLF001 - a planted bug
        self.heap: list[tuple[float, int, Callable[[float], None]]] = []
        self.count = 0

    def at(self, when_s: float, act: Callable[[float], None]) -> None:
        self.count += 1
        heappush(self.heap, (when_s, self.count, act))

    def go(self) -> Course:
        self.at(0.0, lambda now_s: self.submit(now_s, 0))
        while self.heap:
            now_s, _, act = heappop(self.heap)
            act(now_s)
        return self.course

    def submit(self, now_s: float, number: int) -> None:
        if number + 1 < self.scene.jobs:
            next_s = now_s + self.chance.expovariate(1 / RATE_S)
            self.at(next_s, lambda at_s: self.submit(at_s, number + 1))
        self.hedges.submitted(_ms(now_s))
        self.create(now_s, number)

    def create(self, now_s: float, number: int) -> None:
        run_s = self.scene.pair(self.chance)
        if self.brown_out(now_s):
            if self.chance.random() < 1 / 3:
                self.course.limited_s.append(now_s)
                self.hedges.outcome(MODEL, "limited", _ms(now_s), failed=True)
                self.at(now_s + 30, lambda at_s: self.create(at_s, number))
                return
            run_s = (5 * run_s[0], 5 * run_s[1])
        job = Job(now_s, run_s)
        self.latencies.began(str(number), (MODEL,), _ms(now_s), _ms(now_s))
        self.at(now_s + run_s[0], lambda at_s: self.end(at_s, number, job, 0))
        at_ms = self.hedges.hedge_at_ms(str(number), MODEL, _ms(now_s))
        self.ask_at(number, job, now_s + FIRST_POLL_S if at_ms is None else at_ms / 1_000)

    def brown_out(self, now_s: float) -> bool:
        span = self.scene.brown_out_s
        return span is not None and span[0] <= now_s < span[1]

    def ask_at(self, number: int, job: Job, when_s: float) -> None:
        if when_s < job.began_s + job.run_s[0]:  # Otherwise it has ended by then.
            self.at(when_s, lambda at_s: self.ask(at_s, number, job))

    def ask(self, now_s: float, number: int, job: Job) -> None:
        slow = Slow(str(number), MODEL, "t", _ms(job.began_s), _ms(job.began_s + DEADLINE_S))
        answer = self.hedges.ask(slow, _ms(now_s))
        if isinstance(answer, NoHedgeNow):
            if answer.why == "class" and self.course.stopped_after is None:
                self.course.stopped_after = len(self.course.hedges_s)
            if answer.ask_at_ms is not None:
                self.ask_at(number, job, answer.ask_at_ms / 1_000 + 1e-3)
            return
        if not self.course.hedges_s:
            self.course.ended_before_first_hedge = answer.ended
        self.course.hedges_s.append(now_s)
        job.hedged_s = now_s
        self.at(now_s + job.run_s[1], lambda at_s: self.end(at_s, number, job, 1))

    def end(self, now_s: float, number: int, job: Job, attempt: int) -> None:
        if job.done_s is not None:
            return
        job.done_s, name, now_ms = now_s, str(number), _ms(now_s)
        self.course.spans_s.append(now_s - job.began_s)
        self.hedges.outcome(MODEL, None, now_ms, failed=False)
        if attempt == 0:
            self.latencies.ended(name, _ms(job.run_s[0]), now_ms)
        elif self.scene.losers_censored:
            self.latencies.left(name, _ms(now_s - job.began_s), now_ms)
        else:
            self.latencies.ended(name, _ms(now_s - job.began_s), now_ms)
        if job.hedged_s is None:
            return
        self.course.won += attempt
        self.hedges.decided(MODEL, "hedge" if attempt else "first", now_ms)


def _ms(at_s: float) -> int:
    return round(1_000 * at_s)


def hedged(scene: Scene) -> Course:
    """Let the jobs of `scene` pass."""
    return _Run(scene).go()


def without(scene: Scene) -> list[float]:
    """The run times of the same jobs without hedges, sorted."""
    chance = random.Random(scene.seed)
    return sorted(scene.pair(chance)[0] for _ in range(scene.jobs))
