"""The limits of one lane or tenant, as one worker keeps them: its share of each rate. Pure.

Rules:
- A grant reserves the tokens that the provider is expected to charge. A reservation is given back once: by a refusal,
  or by the end of the attempt, which corrects it by what was used.
- Headers are believed: a limit that is lower than the configured one takes its place, and ours are pulled to what
  remains there, downwards at once and upwards by `PULL_SHARE` of the rate, so that a wrong estimate neither wastes the
  limit nor sends a wave.
- What the provider charges is its secret. The charge is learned as a factor of input and expected output: what its
  bucket lost between two answers, over what was expected.
- A refusal for a limit empties the bucket for the time that the provider told. Where no header tells the limit, the
  configured rate falls to 0.8 of itself, but not below what was served in the last ten seconds, and rises by a tenth a
  minute while it is used and unrefused. A refusal while nothing is served tells of an outage, not of a rate.
- A day is a calendar day (UTC), counted over all workers.
"""

from collections import deque
from dataclasses import dataclass, field
from math import sqrt
from typing import Literal

from streams.policy.buckets import Bucket, Requests

Reason = Literal["concurrent", "requests_per_min", "tokens_per_min", "tokens_per_day"]

PULL_SHARE = 0.25
MARGIN_S = 1.0
"""Of the tokens that remain at the provider, this many seconds' worth are left there: answers cross on the way."""
MARGIN_SDS = 4.0
"""As many standard deviations of one job's charge are left there as well: sizes are skewed. It is a stock, not a flow,
so it costs nothing of the rate."""
LEAVE_SHARE = 1 / 3
"""Part of a bucket that other classes leave to interactive jobs."""
FALL = 0.8
FALL_EVERY_MS = 5_000
RISE_PER_MIN = 0.10
RISE_AFTER_MS = 30_000
USED_MIN = 0.8
FOUND_SHARE_MIN = 0.05
"""Refusals lower a rate to this part of the configured one at most."""
DAY_MS = 86_400_000
SERVED_MS = 10_000
SCALE_MIN, SCALE_MAX = 0.02, 50.0
SCALE_MEMORY = 0.98
"""The part of what was learned of the charge that the next answer leaves."""
FULL = 0.995


@dataclass(frozen=True, slots=True)
class Rates:
    """Limits; None where there is none."""

    concurrent: int | None = None
    requests_per_min: float | None = None
    tokens_per_min: float | None = None
    tokens_per_day: float | None = None

    @property
    def any(self) -> bool:
        return self != Rates()


NO_RATES = Rates()


@dataclass(frozen=True, slots=True)
class Told:
    """What the headers of an answer told of the provider's limits; None where they are silent."""

    requests_limit: int | None = None
    requests_remaining: int | None = None
    tokens_limit: int | None = None
    tokens_remaining: int | None = None
    tokens_reset_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now. `ms` is None where only the end of another attempt, or another day's begin, changes it."""

    reason: Reason
    ms: int | None


@dataclass(slots=True)
class _Charge:
    """What the provider charges, over what was expected."""

    scale: float = 1.0
    charged: float = 0.0
    expected: float = 0.0
    answers: int = 0
    variance: float = 0.0
    """Of the charge of one job, around what was expected."""

    def learn(self, charged: float, expected: float, jobs: int) -> None:
        off = charged - expected * self.scale
        self.variance += (off * off / jobs - self.variance) / min(self.answers + 1, 50)
        self.charged = self.charged * SCALE_MEMORY + charged
        self.expected = self.expected * SCALE_MEMORY + expected
        self.answers += 1
        if self.answers >= 5 and self.expected > 0:
            self.scale = min(max(self.charged / self.expected, SCALE_MIN), SCALE_MAX)


@dataclass(slots=True)
class Limiter:
    """See the module. `share` is this worker's part of each rate; `of_all` its part of what all workers use."""

    rates: Rates
    now_ms: int
    share: float = 1.0
    of_all: float = 1.0
    in_flight: int = 0
    day_elsewhere: float = 0.0
    """Tokens that other workers used today."""
    told: Told | None = None
    _requests: Requests | None = None
    _tokens: Bucket | None = None
    _found: float | None = None
    """The rate of tokens that refusals showed, where no header tells the limit."""
    _refused_ms: int = -FALL_EVERY_MS
    _risen_ms: int = 0
    _day: int = 0
    _day_used: float = 0.0
    _charge: _Charge = field(default_factory=_Charge)
    _unanswered: float = 0.0
    """Charges of creates that are not answered yet."""
    _answered: float = 0.0
    """Expected tokens of creates answered since the last header."""
    _answers: int = 0
    _seen: tuple[int, float, bool] | None = None
    _served: deque[tuple[int, float]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._fit(self.now_ms)

    @property
    def scale(self) -> float:
        return self._charge.scale

    @property
    def tokens_per_min(self) -> float | None:
        """The limit of tokens for all workers together, as known now."""
        known = [rate for rate in (self.rates.tokens_per_min, self._found, self._told_tokens()) if rate]
        return min(known, default=None)

    @property
    def requests_per_min(self) -> float | None:
        told = self.told.requests_limit if self.told else None
        return min([rate for rate in (self.rates.requests_per_min, told) if rate], default=None)

    @property
    def bounded(self) -> bool:
        """Whether any limit is known."""
        return self.rates.any or self._tokens is not None or self._requests is not None

    def shared(self, share: float, of_all: float, now_ms: int) -> None:
        self.share = share
        self.of_all = max(of_all, 0.01)
        self._fit(now_ms)

    def wait(self, tokens: float, now_ms: int, *, leave: bool = False) -> Wait | None:
        """Why a job of so many expected tokens may not go now; None if it may."""
        if self.rates.concurrent is not None and self.in_flight >= max(1, int(self.rates.concurrent * self.share)):
            return Wait("concurrent", None)
        if self._requests is not None and (wait_ms := self._requests.wait_ms(now_ms)):
            return Wait("requests_per_min", wait_ms)
        if self.rates.tokens_per_day is not None:
            self._to_day(now_ms)
            used = self._day_used + self.day_elsewhere
            if used and used + tokens > self.rates.tokens_per_day:
                return Wait("tokens_per_day", DAY_MS - now_ms % DAY_MS)
        if self._tokens is not None:
            room = self._tokens.capacity * LEAVE_SHARE if leave else 0.0
            if wait_ms := self._tokens.wait_ms(self.charge(tokens), now_ms, room):
                return Wait("tokens_per_min", wait_ms)
        return None

    def charge(self, tokens: float) -> float:
        return tokens * self._charge.scale

    def take(self, tokens: float, now_ms: int) -> float:
        """Reserve; returns the charge, which `answered`, `refused` and `ended` want back."""
        charge = self.charge(tokens)
        self.in_flight += 1
        self._unanswered += charge
        self._to_day(now_ms)
        self._day_used += tokens
        if self._requests is not None:
            self._requests.take(now_ms)
        if self._tokens is not None:
            self._tokens.take(charge, now_ms)
        return charge

    def answered(self, charge: float, tokens: float, now_ms: int, told: Told | None = None) -> None:
        """The create was accepted."""
        self._unanswered = max(0.0, self._unanswered - charge)
        self._answered += tokens
        self._answers += 1
        self._serve(tokens, now_ms)
        self._rise(now_ms)
        if told is not None:
            self._hear(told, now_ms)

    def refused(
        self, charge: float, tokens: float, now_ms: int, *, limited: bool, told_ms: int, told: Told | None = None
    ) -> None:  # fmt: skip
        """The create was refused: it was charged nothing but, where `limited`, a request."""
        self.in_flight = max(0, self.in_flight - 1)
        self._unanswered = max(0.0, self._unanswered - charge)
        self._day_used = max(0.0, self._day_used - tokens)
        if self._tokens is not None:
            self._tokens.give_back(charge)
        if told is not None:
            self._hear(told, now_ms)
        if not limited:
            return
        served, most = self._served_per_min(now_ms), self.rates.tokens_per_min
        if most and served and self._told_tokens() is None and now_ms - self._refused_ms >= FALL_EVERY_MS:
            rate = self.tokens_per_min or most
            self._found = max(rate * FALL, min(served, rate), most * FOUND_SHARE_MIN)
            self._fit(now_ms)
        self._refused_ms = now_ms
        if self._tokens is not None:
            self._tokens.close(now_ms, told_ms)

    def ended(self, tokens: float, used: float | None) -> None:
        """An accepted attempt ended and used so many tokens; None where that is not known."""
        self.in_flight = max(0, self.in_flight - 1)
        if used is not None:
            self._day_used = max(0.0, self._day_used + used - tokens)

    def correct(self, tokens: float, used: float) -> None:
        """Book what was used beyond the reservation where no header tells the level (a tenant, a silent provider)."""
        if self._tokens is not None and self._told_tokens() is None:
            self._tokens.level = min(self._tokens.level + (tokens - used) * self.scale, self._tokens.capacity)

    def day_used(self, now_ms: int) -> float:
        self._to_day(now_ms)
        return self._day_used

    def used_per_min(self, now_ms: int) -> float:
        return self._served_per_min(now_ms)

    def _told_tokens(self) -> float | None:
        return float(self.told.tokens_limit) if self.told is not None and self.told.tokens_limit else None

    def _fit(self, now_ms: int) -> None:
        """Give the meters this worker's share of the limits known now."""
        tokens, requests = self.tokens_per_min, self.requests_per_min
        if tokens is not None:
            rate = max(tokens * self.share, 1e-6)
            if self._tokens is None:
                self._tokens = Bucket(rate, now_ms)
            elif rate != self._tokens.per_min:
                self._tokens.resize(rate, now_ms)
        if requests is not None:
            rate = max(requests * self.share, 1e-6)
            if self._requests is None:
                self._requests = Requests(rate, float(now_ms))
            elif rate != self._requests.per_min:
                self._requests.resize(rate, now_ms)

    def _hear(self, told: Told, now_ms: int) -> None:
        known = self.told
        self.told = told if told.tokens_limit or told.requests_limit else known
        if told.tokens_limit:
            self._found = None
        self._fit(now_ms)
        limit, remaining = told.tokens_limit, told.tokens_remaining
        if not limit or remaining is None or self._tokens is None:
            return
        capacity = remaining + limit * (told.tokens_reset_ms or 0) / 60_000
        self._tokens.capacity_max = max(capacity * self.share, 1.0) if told.tokens_reset_ms is not None else 1e18
        full = remaining >= capacity * FULL
        if self._seen is not None and known is not None and known.tokens_limit == limit:
            then_ms, then, was_full = self._seen
            charged = then - remaining + limit * (now_ms - then_ms) / 60_000
            if not full and not was_full and self._answered > 0:
                self._charge.learn(max(0.0, charged), self._answered / self.of_all, max(1, self._answers))
        self._answered, self._answers = 0.0, 0
        pulled_ms = min(now_ms - self._seen[0], 5_000) if self._seen is not None else 1_000
        self._seen = (now_ms, float(remaining), full)
        self._pull(limit, remaining, capacity, now_ms, pulled_ms)

    def _pull(self, limit: int, remaining: int, capacity: float, now_ms: int, elapsed_ms: int) -> None:
        """Pull our level to this worker's part of what remains at the provider."""
        assert self._tokens is not None
        level = self._tokens.fill(now_ms)
        margin = max(limit * MARGIN_S / 60, min(MARGIN_SDS * sqrt(self._charge.variance), capacity / 2))
        theirs = (remaining - margin) * self.share - self._unanswered
        if theirs < level:
            self._tokens.level = theirs
        elif (self.rates.tokens_per_min or limit) >= limit:
            level = max(level, min(theirs, 0.0))  # The provider has room, so the debt was one of estimates.
            step = PULL_SHARE * self._tokens.per_min * elapsed_ms / 60_000
            self._tokens.level = min(level + step, theirs, self._tokens.capacity)

    def _serve(self, tokens: float, now_ms: int) -> None:
        self._served.append((now_ms, tokens))
        while self._served[0][0] < now_ms - SERVED_MS:
            self._served.popleft()

    def _served_per_min(self, now_ms: int) -> float:
        since_ms = now_ms - SERVED_MS
        return sum(tokens for at_ms, tokens in self._served if at_ms >= since_ms) * 60_000 / SERVED_MS

    def _rise(self, now_ms: int) -> None:
        if self._found is None or now_ms - self._refused_ms < RISE_AFTER_MS:
            self._risen_ms = now_ms
            return
        elapsed_ms, self._risen_ms = now_ms - self._risen_ms, now_ms
        if self._served_per_min(now_ms) >= USED_MIN * self._found * self.share:
            self._found *= 1 + RISE_PER_MIN * min(elapsed_ms, 60_000) / 60_000
            self._fit(now_ms)

    def _to_day(self, now_ms: int) -> None:
        day = now_ms // DAY_MS
        if day != self._day:
            self._day, self._day_used, self.day_elsewhere = day, 0.0, 0.0
