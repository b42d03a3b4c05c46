"""When to poll, from the run times and the webhook loss that were measured. Pure: no clock, no IO.

    polls = LearnedPolls(PollPrice(...))
    polls.latencies.began(...); polls.loss.judged(...)      # what is seen
    for _ in polls.refresh(now_ms, rate_per_s): ...         # when `outdated`, in steps of a few ms
    polls.spacing_ms(a_class, age_ms), polls.why(a_class)   # a look-up

One schedule for each class in use is kept, and a decision is a look-up in it. With the price `a` of a poll and the
share `l` of ends without a webhook, the schedule of a class is the one with the least (a/l) * polls + delay.

*Where the rate binds, the price rises.* If the schedules would ask for more than 95 % of the rate that the provider
takes at present, the smallest price is sought at which they do not. So polls become fewer where they find least, and
the rate keeps room for the polls of webhooks and for cancels.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from schemas.base import PollBasis
from streams.policy.latency import ALL, Latencies, LatencyClass, levels
from streams.policy.latency_counts import Curve, smoothed
from streams.policy.poll_schedule import SPACING_MS_MAX, Schedule, schedule
from streams.policy.webhook_loss import WebhookLoss

POLICY_VERSION = 1
"""Stamped with each decision: raised when the same data would lead to other times."""

REFRESH_MS = 30_000
REFRESH_MS_MIN = 5_000
LOSS_MOVED = 1.5
"""The schedules are computed each `REFRESH_MS`, or sooner if the loss of webhooks has changed by this factor."""

ARRIVALS_MS = 120_000
"""The rate of acceptances is their mean in so much time."""

SMOOTH_WIDTH = 0.25
SMOOTH_WIDTH_FEW = 0.35
FEW_ENDS = 100

PLANS_MAX = 32
"""Classes with a schedule of their own, the busiest ones. The others have that of their parent."""

RATE_SHARE = 0.95
"""Of the rate, for the polls of the schedules: the rest is for cancels, and for chance."""

PRICE_TRIES_MAX = 8
PRICE_GOOD = 0.95
"""A price is taken if the polls that it allows are at least this share of those that the rate allows."""

PRICE_GROWTH_MAX = 1e6


@dataclass(frozen=True, slots=True)
class PollPrice:
    """What a poll costs, and the bounds of what is learned.

    :raises ValueError: a value is out of range.
    """

    price_s: float = 0.4
    """The seconds of late detection that one poll is worth."""
    spacing_max_ms: int = 240_000
    ends_min: int = 10
    """With fewer ends of all classes together the fixed schedule decides."""

    def __post_init__(self) -> None:
        if not 0.001 <= self.price_s <= 3_600:
            raise ValueError("polls: price_s must be from 0.001 to 3600")
        if not 1_000 <= self.spacing_max_ms <= SPACING_MS_MAX:
            raise ValueError(f"polls: spacing_max_ms must be from 1000 to {SPACING_MS_MAX}")


@dataclass(frozen=True, slots=True)
class Plan:
    """The schedule of a class, and what it was made of."""

    of: LatencyClass
    ends: int
    loss: float
    price_s: float
    schedule: Schedule
    curve: Curve
    basis: PollBasis
    """What is stamped with a decision."""

    def spacing_ms(self, age_ms: float, jitter: float) -> float:
        """The wait for the next poll at this age. The jitter makes none longer than the bound."""
        planned_ms = self.schedule.next_age_ms(age_ms) - age_ms
        return min(planned_ms * jitter, max(planned_ms, self.schedule.spacing_max_ms))

    def urgency(self, polled_age_ms: float, age_ms: float) -> float:
        """The order of what waits, the greatest first: what is past the longest spacing, as its result may expire;
        then by the chance that it has ended.
        """
        if age_ms - polled_age_ms >= self.schedule.spacing_max_ms:
            return 1.0 + age_ms - polled_age_ms
        return self.ended_since(polled_age_ms, age_ms)

    def ended_since(self, polled_age_ms: float, age_ms: float) -> float:
        """The chance that a response of this age has ended since the poll that saw it running."""
        before = self.curve.running(polled_age_ms)
        return 1.0 if before <= 0 else 1.0 - self.curve.running(age_ms) / before


class LearnedPolls:
    """The schedules in use. Not thread-safe. All of it may be lost: it is learned anew."""

    def __init__(self, price: PollPrice, latencies: Latencies | None = None, loss: WebhookLoss | None = None) -> None:
        self._price = price
        self.latencies = latencies or Latencies()
        self.loss = loss or WebhookLoss()
        self.price_s = price.price_s
        self._plans: dict[LatencyClass, Plan] = {}
        self._arrived: Counter[LatencyClass] = Counter()
        self._refreshed_at_ms, self._refreshed_loss = -REFRESH_MS, 1.0
        self._arrivals: deque[tuple[int, Counter[LatencyClass]]] = deque()

    def arrived(self, of: LatencyClass) -> None:
        """A response of the class was accepted."""
        self._arrived[of] += 1

    def plan(self, of: LatencyClass) -> Plan | None:
        """The plan of the class, or of its nearest parent that has one. None while too little is known."""
        if ALL not in self._plans or self._plans[ALL].ends < self._price.ends_min:
            return None
        return next((self._plans[level] for level in levels(of) if level in self._plans), None)

    def plans(self) -> list[Plan]:
        return list(self._plans.values())

    def expire(self) -> None:
        """Have the schedules computed at the next opportunity: much was learned at once."""
        self._refreshed_at_ms = -REFRESH_MS

    def outdated(self, now_ms: int) -> bool:
        """Whether the schedules should be computed now."""
        since_ms = now_ms - self._refreshed_at_ms
        if since_ms >= REFRESH_MS:
            return True
        if since_ms < REFRESH_MS_MIN:
            return False
        return not 1 / LOSS_MOVED < self.loss.share(None, now_ms) / self._refreshed_loss < LOSS_MOVED

    def refresh(self, now_ms: int, rate_per_s: float) -> Iterator[None]:
        """Compute the schedules anew. Each step takes a few ms; the new schedules hold from the last one on."""
        self._refreshed_at_ms, self._refreshed_loss = now_ms, self.loss.share(None, now_ms)
        per_s = self._arrivals_per_s(now_ms)
        in_use = Counter(self.latencies.in_use())
        in_use.update(dict.fromkeys(per_s, 1))
        busiest = [of for of, _ in in_use.most_common(PLANS_MAX)]
        wanted = {*busiest, *(of[:1] for of in busiest), ALL}
        curves = self.latencies.learned_all(wanted, now_ms)
        yield
        inputs = {of: self._input(of, curves[of], now_ms) for of in wanted}
        planned_per_s: dict[LatencyClass, float] = {}
        for of, each in per_s.items():
            planned = of if of in inputs else ALL
            planned_per_s[planned] = planned_per_s.get(planned, 0.0) + each
        yield from self._choose(inputs, planned_per_s, RATE_SHARE * rate_per_s)

    def _choose(
        self, inputs: "Mapping[LatencyClass, _Input]", per_s: Mapping[LatencyClass, float], polls_per_s: float
    ) -> Iterator[None]:
        """Take the plans with the smallest price at which they ask for at most `polls_per_s`."""
        # Each job takes one poll that finds the end. The schedule decides the polls before it.
        spare_per_s = polls_per_s - sum(per_s.values())
        least_s, most_s = self._price.price_s, self._price.price_s * PRICE_GROWTH_MAX
        price_s = least_s if spare_per_s > 0 or not per_s else most_s
        best: tuple[float, dict[LatencyClass, Plan]] | None = None
        for _ in range(PRICE_TRIES_MAX):
            plans = {}
            for of, each in inputs.items():
                plans[of] = each.plan(price_s, self._price.spacing_max_ms)
                yield
            vain_per_s = sum(each * plans[of].schedule.polls for of, each in per_s.items())
            fits = vain_per_s <= max(spare_per_s, 0.0)
            if fits or best is None:
                best = price_s, plans
            if price_s in (self._price.price_s if fits else None, self._price.price_s * PRICE_GROWTH_MAX):
                break
            if fits and vain_per_s >= PRICE_GOOD * spare_per_s:
                break
            least_s, most_s = (least_s, price_s) if fits else (price_s, most_s)
            # Polls in vain fall about as one over the root of the price.
            guess_s = price_s * (vain_per_s / ((1 + PRICE_GOOD) / 2 * spare_per_s)) ** 2
            price_s = guess_s if least_s < guess_s < most_s else (least_s * most_s) ** 0.5
        assert best is not None
        self.price_s, self._plans = best

    def _input(self, of: LatencyClass, curve: Curve, now_ms: int) -> "_Input":
        width = SMOOTH_WIDTH_FEW if curve.ends < FEW_ENDS else SMOOTH_WIDTH
        loss = self.loss.share(of[0] if of else None, now_ms)
        return _Input(of, curve, tuple(smoothed(curve.masses(), width)), loss)

    def _arrivals_per_s(self, now_ms: int) -> dict[LatencyClass, float]:
        """Acceptances a second of each class."""
        self._arrivals.append((now_ms, self._arrived))
        self._arrived = Counter()
        while len(self._arrivals) > 1 and self._arrivals[1][0] <= now_ms - ARRIVALS_MS:
            self._arrivals.popleft()
        since_ms = self._arrivals[0][0]
        counted: Counter[LatencyClass] = Counter()
        for at_ms, each in self._arrivals:
            if at_ms > since_ms:
                counted.update(each)
        recent = {of for _, each in self._arrivals for of in each}
        return {of: counted[of] * 1_000 / max(1, now_ms - since_ms) for of in recent}


@dataclass(frozen=True, slots=True)
class _Input:
    of: LatencyClass
    curve: Curve
    masses: tuple[float, ...]
    loss: float

    def plan(self, price_s: float, spacing_max_ms: int) -> Plan:
        made = schedule(self.masses, price_s / self.loss, spacing_max_ms)
        basis = PollBasis(
            latency_class=self.of, ends=self.curve.ends, loss=round(self.loss, 4), price_s=round(price_s, 3),
            policy=POLICY_VERSION,
        )  # fmt: skip
        return Plan(self.of, self.curve.ends, self.loss, price_s, made, self.curve, basis)
