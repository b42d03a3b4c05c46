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
- A day is a calendar day (UTC). Each worker counts it from its start.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from streams.policy.buckets import MINUTE_MS
from streams.policy.tiers import RequestTiers, Standing, TokenTiers

Reason = Literal["concurrent", "requests_per_min", "tokens_per_min", "tokens_per_day"]

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
DAY_MS = 86_400_000
SERVED_MS = 10_000


@dataclass(frozen=True, slots=True)
class Rates:
    """Limits; None where there is none."""

    concurrent: int | None = None
    requests_per_min: float | None = None
    tokens_per_min: float | None = None
    tokens_per_day: float | None = None
    discover: bool = False
    """Find out the tokens a minute, where neither this nor the provider tells them."""

    @property
    def any(self) -> bool:
        return self != Rates()


NO_RATES = Rates()


@dataclass(frozen=True, slots=True)
class LimitsTold:
    """What an answer told of the limits. None: nothing."""

    requests_per_min: float | None = None
    tokens_per_min: float | None = None
    requests_left: float | None = None
    tokens_left: float | None = None


@dataclass(frozen=True, slots=True)
class NotNow:
    """Not now. `ms` is None where only the end of another attempt changes it."""

    reason: Reason
    ms: int | None


@dataclass(slots=True)
class Limiter:
    """See the module. `share` is this worker's part of each limit."""

    rates: Rates
    now_ms: int
    share: float = 1.0
    in_flight: int = 0
    _told: LimitsTold = LimitsTold()
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
    _day: int = 0
    _day_used: float = 0.0
    _served: deque[tuple[int, float]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._discovers(self.now_ms)
        self._fit(self.now_ms)

    @property
    def tokens_per_min(self) -> float | None:
        """The limit of tokens for all workers together, as known now."""
        return _least(self._most, self._found)

    @property
    def _most(self) -> float | None:
        """The limit of tokens that is set or told."""
        return _least(self.rates.tokens_per_min, self._told.tokens_per_min)

    def shared(self, share: float, now_ms: int) -> None:
        self.share = share
        self._fit(now_ms)

    def wait(self, tokens: float, now_ms: int, standing: Standing = "within") -> NotNow | None:
        """Why a job of so many expected tokens may not go now; None if it may."""
        if self._concurrent is not None and self.in_flight >= self._concurrent:
            return NotNow("concurrent", None)
        if self._requests is not None and (wait_ms := self._requests.wait_ms(now_ms, standing)):
            return NotNow("requests_per_min", wait_ms)
        if self.rates.tokens_per_day is not None:
            self._to_day(now_ms)
            if self._day_used and self._day_used + tokens > self.rates.tokens_per_day * self.share:
                return NotNow("tokens_per_day", DAY_MS - now_ms % DAY_MS)
        if self._tokens is not None and (wait_ms := self._tokens.wait_ms(tokens, now_ms, standing)):
            return NotNow("tokens_per_min", wait_ms)
        return None

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
        return max(by_tokens, by_requests, run_ms / self._concurrent if self._concurrent is not None else 0.0)

    @property
    def _concurrent(self) -> int | None:
        """How many attempts this worker may have in flight."""
        concurrent = self.rates.concurrent
        return None if concurrent is None else max(1, int(concurrent * self.share))

    def take(self, tokens: float, now_ms: int, standing: Standing = "within") -> None:
        """Reserve `tokens`, which `answered`, `refused` and `ended` want back."""
        self.in_flight += 1
        self._unanswered += tokens
        self._unanswered_count += 1
        self._to_day(now_ms)
        self._day_used += tokens
        if self._requests is not None:
            self._requests.take(now_ms, standing)
        if self._tokens is not None:
            self._tokens.take(tokens, now_ms, standing)

    def answered(self, tokens: float, now_ms: int) -> None:
        """The create was accepted."""
        self._heard(tokens)
        self._serve(tokens, now_ms)
        self._rise(now_ms)

    def refused(
        self, tokens: float, now_ms: int, standing: Standing = "within", *, limited: bool, told_ms: int
    ) -> None:  # fmt: skip
        """The create was refused: it was charged nothing but, where `limited`, a request."""
        self._heard(tokens)
        self.in_flight = max(0, self.in_flight - 1)
        self._day_used = max(0.0, self._day_used - tokens)
        if self._tokens is not None:
            self._tokens.give_back(tokens, standing)
        if not limited:
            return
        served, rate = self._served_per_min(now_ms), self.tokens_per_min
        if rate and self._accepted and now_ms - self._fell_ms >= FALL_EVERY_MS:
            self._fell_ms, self._accepted = now_ms, False
            shown = self._shown(now_ms)
            fallen = max(rate * FALL, min(served, rate)) if shown is None else min(rate, shown * BELOW_CEILING)
            self._found = max(fallen, (self._most or rate) * FOUND_SHARE_MIN)
            self._fit(now_ms)
        self._refused_ms = now_ms
        if self._tokens is not None:
            self._tokens.close(now_ms, told_ms)

    def _shown(self, now_ms: int) -> float | None:
        """The limit for all workers that this refusal and an earlier one show; None if they don't."""
        since_ms, measured, unused_ms = self._measured_since_ms, self._measured, self._unused_ms
        if since_ms is not None and now_ms - since_ms < MEASURED_MIN_MS:
            return None
        self._measured_since_ms, self._measured, self._unused_ms = now_ms, 0.0, 0
        if since_ms is None or unused_ms > UNUSED_MAX * (now_ms - since_ms):
            return None
        self._ceiling = measured * MINUTE_MS / (now_ms - since_ms) / self.share
        return self._ceiling

    def ended(self, tokens: float, used: float | None) -> None:
        """An accepted attempt ended and used so many tokens; None where that is not known."""
        self.in_flight = max(0, self.in_flight - 1)
        if used is not None:
            self._day_used = max(0.0, self._day_used + used - tokens)

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
        if age_ms > STALE_MS:
            return
        if told.tokens_left is not None and self._tokens is not None:
            self._tokens.allow(max(0.0, told.tokens_left * self.share - self._unanswered), now_ms)
        if told.requests_left is not None and self._requests is not None:
            self._requests.allow(max(0.0, told.requests_left * self.share - self._unanswered_count), now_ms)

    def _heard(self, tokens: float) -> None:
        self._unanswered_count = max(0, self._unanswered_count - 1)
        self._unanswered = max(0.0, self._unanswered - tokens) if self._unanswered_count else 0.0

    def _discovers(self, now_ms: int) -> None:
        """Begin to find out the rate, where nothing is set or told."""
        if self.rates.discover and self._most is None and self._found is None:
            self._found, self._refused_ms, self._risen_ms = FIRST_TOKENS_PER_MIN, now_ms - DOUBLES_AFTER_MS, now_ms

    def _fit(self, now_ms: int) -> None:
        """Give the meters this worker's share of the limits known now."""
        tokens, requests = self.tokens_per_min, _least(self.rates.requests_per_min, self._told.requests_per_min)
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

    def _serve(self, tokens: float, now_ms: int) -> None:
        self._measured += tokens
        self._accepted = True
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
        if self._served_per_min(now_ms) < USED_MIN * self._found * self.share:
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

    def _to_day(self, now_ms: int) -> None:
        day = now_ms // DAY_MS
        if day != self._day:
            self._day, self._day_used = day, 0.0


NOTHING_TOLD = LimitsTold()


def _least(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)
