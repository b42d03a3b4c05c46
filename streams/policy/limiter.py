"""The limits of one lane or tenant, as one worker keeps them: its share of each limit. Pure.

Rules:
- A grant reserves the tokens that the job is expected to use. A reservation is given back once: by a refusal, or by the
  end of the attempt, which corrects it by what was used.
- What the provider tells of its limits and of what is left counts where it is less than what is set, and where nothing
  is set. What is left counts at once: a worker's share of it, less what its creates without an answer reserved.
- A refusal for a limit empties the bucket for the time that the provider told. The known rate falls to 0.8 of itself,
  but not below what was served in the last ten seconds, and rises by a tenth a minute while it is used and unrefused. A
  refusal while nothing is served tells of an outage, not of a rate.
- Where nothing is set or told and the rate is to be found out, it begins at `FIRST_TOKENS_PER_MIN` and doubles every
  30 s while it is used, until the first refusal, and again once no refusal has come for five minutes. Above a million
  a minute it rises by half in 15 minutes at most, as the provider asks.
- What was served a minute between two refusals that are a minute or more apart is the limit, as the provider had
  nothing left at both. The rate falls just below it, rises by 1 % a minute past it, and then by 20 % a minute.
- What another worker learned of the provider's limits counts as if it was met here (`learned`).
"""

from collections import deque
from dataclasses import dataclass, field

from streams.policy.buckets import MINUTE_MS
from streams.policy.day_use import DayUse
from streams.policy.lending import Demand, LentShare, base_share
from streams.policy.rates import NOTHING_TOLD, Lesson, LimitsTold, NotNow, Rates, least
from streams.policy.tiers import RequestTiers, Standing, TokenTiers

FALL = 0.8
FALL_EVERY_MS = 5_000
RISE_PER_MIN = 0.10
RISE_AFTER_MS = 30_000
USED_MIN = 0.8
FOUND_SHARE_MIN = 0.05
"""Refusals lower a rate to this part of the configured one at most."""
FIRST_TOKENS_PER_MIN = 10_000.0
DOUBLES_IN_MS = 30_000
DOUBLES_AFTER_MS = 300_000
"""Without a refusal for so long, the limit is taken to have risen."""
BELOW_CEILING = 0.97
"""Part of the limit that two refusals showed at which the rate goes on."""
NEAR_CEILING = 1.03
RISE_NEAR_PER_MIN = 0.01
RISE_BEYOND_PER_MIN = 0.2
MEASURED_MIN_MS = 60_000
UNUSED_MAX = 0.2
"""Part of the time between two refusals that may have been without enough jobs."""
SLOW_ABOVE = 1_000_000.0
SLOW_RISE_PER_MIN = 0.027
"""By half in 15 minutes."""
TOLD_FOR_MS = 600_000
"""What was told is forgotten if later answers tell nothing for so long."""
STALE_MS = 10_000
"""What is left is of no use after this time."""
SERVED_MS = 10_000
SHARE_LEAST = 0.001
OTHERS_FOR_MS = 5_000
"""While other workers tell what they are served, it is added up. Else each takes what it is served for its share."""
LENDS_BELOW = 0.5
"""A worker with less than this part of its base share lends it."""


@dataclass(slots=True)
class Limiter:
    """See the module."""

    rates: Rates
    now_ms: int
    share: float = 1.0
    """This worker's part of the limits of requests and tokens a minute; at first, of all limits."""
    in_flight: int = 0
    demand: Demand = field(default_factory=Demand)
    day: DayUse | None = None
    taught: int | None = None
    """Set when an answer showed something new of the limits: the wait that it told."""
    slots: int | None = None
    """How many attempts this worker may have in flight."""
    served: float = 0.0
    """Tokens of all creates that were accepted here."""
    base: float = 1.0
    """This worker's part of all partitions."""
    taken_ms: int = 0
    """When room was last taken."""
    _told: LimitsTold = NOTHING_TOLD
    _told_ms: int = 0
    _unanswered: float = 0.0
    """Tokens reserved by creates that have no answer yet."""
    _unanswered_count: int = 0
    _requests: RequestTiers | None = None
    _tokens: TokenTiers | None = None
    _found: float | None = None
    """The rate of tokens that refusals showed."""
    _refused_ms: int = -FALL_EVERY_MS
    _fell_ms: int = -FALL_EVERY_MS
    _accepted: bool = False
    """Whether a create was accepted since the rate fell."""
    _risen_ms: int = 0
    _ceiling: float | None = None
    """The limit that two refusals showed."""
    _measured_since_ms: int | None = None
    _measured: float = 0.0
    """Tokens served since then."""
    _unused_ms: int = 0
    _others_ms: int = -OTHERS_FOR_MS
    """When other workers last told what they were served."""
    _served: deque[tuple[int, float]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.base, self.slots = self.share, base_share(self.share, self.rates.concurrent).slots
        if self.rates.tokens_per_day is not None and self.day is None:
            self.day = DayUse(self.rates.tokens_per_day, self.share)
        self._discovers(self.now_ms)
        self._fit(self.now_ms)

    @property
    def tokens_per_min(self) -> float | None:
        """The limit of tokens for all workers together, as known now."""
        return least(self._most, self._found)

    @property
    def requests_per_min(self) -> float | None:
        """The limit of requests for all workers together, as known now."""
        return least(self.rates.requests_per_min, self._told.requests_per_min)

    @property
    def _most(self) -> float | None:
        """The limit of tokens that is set or told."""
        return least(self.rates.tokens_per_min, self._told.tokens_per_min)

    def shared(self, share: float, now_ms: int) -> None:
        """The worker's part of all partitions changed."""
        self.base = share
        self.lent(base_share(share, self.rates.concurrent), now_ms)
        if self.day is not None:
            self.day.base = share

    def lent(self, share: LentShare, now_ms: int) -> None:
        """The worker's part of the limits changed."""
        if (share.rate, share.slots) != (self.share, self.slots):
            self.share, self.slots = share.rate, share.slots
            self._fit(now_ms)

    def wait(self, tokens: float, now_ms: int, standing: Standing = "within") -> NotNow | None:
        """Why a job of so many expected tokens may not go now; None if it may."""
        if self.slots is not None and self.in_flight >= self.slots:
            return NotNow("concurrent", None)
        if self._requests is not None and (wait_ms := self._requests.wait_ms(now_ms, standing)):
            return NotNow("requests_per_min", wait_ms)
        if self.day is not None and (wait_ms := self.day.wait_ms(tokens, now_ms)):
            return NotNow("tokens_per_day", wait_ms)
        if self._tokens is not None and (wait_ms := self._tokens.wait_ms(tokens, now_ms, standing)):
            return NotNow("tokens_per_min", wait_ms)
        return None

    @property
    def _lends(self) -> bool:
        """What a lender is served tells nothing of the limit: a few jobs over a small share."""
        return self.share < LENDS_BELOW * self.base

    def short(self, wait: NotNow, now_ms: int) -> None:
        """A job waits for room. A day is not lent by what is wanted."""
        if wait.reason != "tokens_per_day":
            self.demand.short(now_ms)

    def lane_ms(self, tokens: float, run_ms: float) -> float | None:
        """How long this worker's share of the lane is busy with a job: the longest by tokens, requests and attempts in
        flight. None where there is no rate, or if it is not known how long attempts run (`run_ms` is 0).
        """
        if self._tokens is None and self._requests is None:
            return None
        if self.rates.concurrent is not None and not run_ms:
            return None
        by_tokens = tokens * MINUTE_MS / self._tokens.per_min if self._tokens is not None else 0.0
        by_requests = MINUTE_MS / self._requests.per_min if self._requests is not None else 0.0
        return max(by_tokens, by_requests, run_ms / self.slots if self.slots is not None else 0.0)

    def take(self, tokens: float, now_ms: int, standing: Standing = "within", partition: int = 0) -> None:
        """Reserve `tokens`, which `answered`, `refused` and `ended` want back."""
        self.in_flight += 1
        self.taken_ms = now_ms
        self._unanswered += tokens
        self._unanswered_count += 1
        if self.day is not None:
            self.day.take(partition, tokens, now_ms)
        self._demand(tokens, now_ms)
        if self._requests is not None:
            self._requests.take(now_ms, standing)
        if self._tokens is not None:
            self._tokens.take(tokens, now_ms, standing)

    def runs(self, tokens: float, now_ms: int, partition: int) -> None:
        """An attempt runs that began before this worker knew of it: it counts as in flight, and for the day."""
        self.in_flight += 1
        if self.day is not None:
            self.day.take(partition, tokens, now_ms)

    def answered(self, tokens: float, now_ms: int) -> None:
        """The create was accepted."""
        self._heard(tokens)
        self._serve(tokens, now_ms)
        self._rise(now_ms)

    def refused(
        self, tokens: float, now_ms: int, standing: Standing = "within", partition: int = 0, *, limited: bool,
        told_ms: int,
    ) -> None:  # fmt: skip
        """The create was refused: it was charged nothing but, where `limited`, a request."""
        self._heard(tokens)
        self.in_flight = max(0, self.in_flight - 1)
        if self.day is not None:
            self.day.give_back(partition, tokens, 0.0)
        if self._tokens is not None:
            self._tokens.give_back(tokens, standing)
        if not limited:
            return
        served, rate = self._served_per_min(now_ms), self.tokens_per_min
        if rate and self._accepted and now_ms - self._fell_ms >= FALL_EVERY_MS:
            self._fell_ms, self._accepted = now_ms, False
            shown = self._shown(now_ms)
            served = 0.0 if self._lends else served
            fallen = max(rate * FALL, min(served, rate)) if shown is None else min(rate, shown * BELOW_CEILING)
            self._found = max(fallen, (self._most or rate) * FOUND_SHARE_MIN)
            self._fit(now_ms)
            self.taught = told_ms
        self._refused_ms = now_ms
        if self._tokens is not None:
            self._tokens.close(now_ms, told_ms)

    def _shown(self, now_ms: int) -> float | None:
        """The limit for all workers that this refusal and an earlier one show; None if they don't."""
        since_ms, measured, unused_ms = self._measured_since_ms, self._measured, self._unused_ms
        if since_ms is not None and now_ms - since_ms < MEASURED_MIN_MS:
            return None
        self._measured_since_ms, self._measured, self._unused_ms = now_ms, 0.0, 0
        if self._lends or since_ms is None or unused_ms > UNUSED_MAX * (now_ms - since_ms):
            return None
        self._ceiling = measured * MINUTE_MS / (now_ms - since_ms)
        return self._ceiling

    def ended(self, tokens: float, used: float | None, partition: int = 0) -> None:
        """An accepted attempt ended and used so many tokens; None where that is not known.

        :param tokens: what it was expected to use, of a day.
        """
        self.in_flight = max(0, self.in_flight - 1)
        if self.day is not None:
            self.day.give_back(partition, tokens, used)

    def correct(self, tokens: float, used: float, standing: Standing = "within") -> None:
        """Book what was used beyond the reservation."""
        if self._tokens is not None:
            self._tokens.correct(tokens - used, standing)

    def told(self, told: LimitsTold | None, now_ms: int, *, age_ms: int = 0) -> None:
        """What the answer to a create told, `age_ms` ago. None: nothing.

        To be called after the answer's own `answered` or `refused`.
        """
        if told is None:
            if self._told != NOTHING_TOLD and now_ms - self._told_ms > TOLD_FOR_MS:
                self._told = NOTHING_TOLD
                self._discovers(now_ms)
                self._fit(now_ms)
            return
        before, self._told_ms = self._told, now_ms
        self._told = LimitsTold(
            told.requests_per_min or before.requests_per_min, told.tokens_per_min or before.tokens_per_min
        )
        if self._told != before:
            self._found = self._ceiling = self._measured_since_ms = None
            self._discovers(now_ms)
            self._fit(now_ms)
            self.taught = self.taught or 0
        if age_ms > STALE_MS:
            return
        if told.tokens_left is not None and self._tokens is not None:
            self._tokens.allow(max(0.0, told.tokens_left * self.share - self._unanswered), now_ms)
        if told.requests_left is not None and self._requests is not None:
            self._requests.allow(max(0.0, told.requests_left * self.share - self._unanswered_count), now_ms)

    def lesson(self) -> Lesson | None:
        """What this worker learned since it was last asked; None: nothing."""
        told_ms, self.taught = self.taught, None
        if told_ms is None:
            return None
        refused = self._found is not None and self._fell_ms >= 0
        limits = LimitsTold(self._told.requests_per_min, self._told.tokens_per_min)
        return Lesson(limits, self._found if refused else None, self._ceiling, told_ms)

    def learned(self, lesson: Lesson, now_ms: int) -> None:
        """Another worker learned this: go on as if it was met here. Of two refusals at once, the lower rate counts."""
        taught = self.taught
        if lesson.told != NOTHING_TOLD:
            self.told(lesson.told, now_ms, age_ms=STALE_MS + 1)
        self.taught = taught
        if lesson.found is None:
            return
        found, ceiling = lesson.found, lesson.ceiling
        if now_ms - self._fell_ms < FALL_EVERY_MS:
            found, ceiling = min(found, self._found or found), least(ceiling, self._ceiling)
        self._found, self._ceiling = found if self._most is None else min(found, self._most), ceiling
        self._fell_ms = self._refused_ms = self._measured_since_ms = now_ms
        self._accepted, self._measured, self._unused_ms = False, 0.0, 0
        self._fit(now_ms)
        if self._tokens is not None and lesson.told_ms:
            self._tokens.close(now_ms, lesson.told_ms)

    def _demand(self, tokens: float, now_ms: int) -> None:
        limit, requests = self.tokens_per_min, self.requests_per_min
        self.demand.took(max(tokens / limit if limit else 0.0, 1 / requests if requests else 0.0), now_ms)

    def _heard(self, tokens: float) -> None:
        self._unanswered_count = max(0, self._unanswered_count - 1)
        self._unanswered = max(0.0, self._unanswered - tokens) if self._unanswered_count else 0.0

    def _discovers(self, now_ms: int) -> None:
        """Begin to find out the rate, where nothing is set or told."""
        if self.rates.discover and self._most is None and self._found is None:
            self._found, self._refused_ms, self._risen_ms = FIRST_TOKENS_PER_MIN, now_ms - DOUBLES_AFTER_MS, now_ms

    def _fit(self, now_ms: int) -> None:
        """Give the meters this worker's share of the limits known now."""
        tokens, requests = self.tokens_per_min, self.requests_per_min
        if tokens is None:
            self._tokens = None
        else:
            rate = max(tokens * self.share, 1e-6)
            if self._tokens is None:
                self._tokens = TokenTiers(rate, now_ms)
            elif rate != self._tokens.per_min:
                self._tokens.resize(rate, now_ms)
        if requests is None:
            self._requests = None
        else:
            rate = max(requests * self.share, 1e-6)
            if self._requests is None:
                self._requests = RequestTiers(rate, now_ms)
            elif rate != self._requests.per_min:
                self._requests.resize(rate, now_ms)

    def others_served(self, tokens: float, now_ms: int) -> None:
        """Another worker told that it was served so many tokens more."""
        self._others_ms = max(self._others_ms, now_ms)
        self._count_served(tokens, now_ms)

    def _serve(self, tokens: float, now_ms: int) -> None:
        self._accepted = True
        self.served += tokens
        known = now_ms - self._others_ms < OTHERS_FOR_MS
        self._count_served(tokens if known else tokens / max(self.share, SHARE_LEAST), now_ms)

    def _count_served(self, tokens: float, now_ms: int) -> None:
        """Count what all workers together were served."""
        self._measured += tokens
        self._served.append((now_ms, tokens))
        while self._served[0][0] < now_ms - SERVED_MS:
            self._served.popleft()

    def _served_per_min(self, now_ms: int) -> float:
        since_ms = now_ms - SERVED_MS
        return sum(tokens for at_ms, tokens in self._served if at_ms >= since_ms) * 60_000 / SERVED_MS

    def _rise(self, now_ms: int) -> None:
        if self._found is None or self._lends or now_ms - self._refused_ms < RISE_AFTER_MS:
            self._risen_ms = now_ms
            return
        elapsed_ms, self._risen_ms = now_ms - self._risen_ms, now_ms
        if self._served_per_min(now_ms) < USED_MIN * self._found:
            self._unused_ms += elapsed_ms
            return
        minutes = min(elapsed_ms, 60_000) / 60_000
        if self._found > SLOW_ABOVE:
            risen = self._found * (1 + SLOW_RISE_PER_MIN * minutes)
        elif self._ceiling is not None and self._found >= BELOW_CEILING * self._ceiling:
            near = self._found < NEAR_CEILING * self._ceiling
            risen = self._found * (1 + (RISE_NEAR_PER_MIN if near else RISE_BEYOND_PER_MIN) * minutes)
        elif now_ms - self._refused_ms >= DOUBLES_AFTER_MS:
            risen = self._found * 2 ** (minutes * 60_000 / DOUBLES_IN_MS)
        else:
            risen = self._found * (1 + RISE_PER_MIN * minutes)
        self._found = None if self._most is not None and risen >= self._most else risen
        self._fit(now_ms)
