"""The limits of one lane or tenant, as one worker keeps them: its share of each limit. Pure.

Rules:
- A grant reserves the tokens that the job is expected to use. A reservation is given back once: by a refusal, or by the
  end of the attempt, which corrects it by what was used.
- A refusal for a limit empties the bucket for the time that the provider told. The configured rate falls to 0.8 of
  itself, but not below what was served in the last ten seconds, and rises by a tenth a minute while it is used and
  unrefused. A refusal while nothing is served tells of an outage, not of a rate.
- A day is a calendar day (UTC). Each worker counts it from its start.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from streams.policy.buckets import Bucket, Requests

Reason = Literal["concurrent", "requests_per_min", "tokens_per_min", "tokens_per_day"]

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
class Wait:
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
    _requests: Requests | None = None
    _tokens: Bucket | None = None
    _found: float | None = None
    """The rate of tokens that refusals showed."""
    _refused_ms: int = -FALL_EVERY_MS
    _risen_ms: int = 0
    _day: int = 0
    _day_used: float = 0.0
    _served: deque[tuple[int, float]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._fit(self.now_ms)

    @property
    def tokens_per_min(self) -> float | None:
        """The limit of tokens for all workers together, as known now."""
        return self.rates.tokens_per_min if self._found is None else self._found

    def shared(self, share: float, now_ms: int) -> None:
        self.share = share
        self._fit(now_ms)

    def wait(self, tokens: float, now_ms: int, *, leave: bool = False) -> Wait | None:
        """Why a job of so many expected tokens may not go now; None if it may."""
        if self.rates.concurrent is not None and self.in_flight >= max(1, int(self.rates.concurrent * self.share)):
            return Wait("concurrent", None)
        if self._requests is not None and (wait_ms := self._requests.wait_ms(now_ms)):
            return Wait("requests_per_min", wait_ms)
        if self.rates.tokens_per_day is not None:
            self._to_day(now_ms)
            if self._day_used and self._day_used + tokens > self.rates.tokens_per_day * self.share:
                return Wait("tokens_per_day", DAY_MS - now_ms % DAY_MS)
        if self._tokens is not None:
            room = self._tokens.capacity * LEAVE_SHARE if leave else 0.0
            if wait_ms := self._tokens.wait_ms(tokens, now_ms, room):
                return Wait("tokens_per_min", wait_ms)
        return None

    def take(self, tokens: float, now_ms: int) -> None:
        """Reserve `tokens`, which `answered`, `refused` and `ended` want back."""
        self.in_flight += 1
        self._to_day(now_ms)
        self._day_used += tokens
        if self._requests is not None:
            self._requests.take(now_ms)
        if self._tokens is not None:
            self._tokens.take(tokens, now_ms)

    def answered(self, tokens: float, now_ms: int) -> None:
        """The create was accepted."""
        self._serve(tokens, now_ms)
        self._rise(now_ms)

    def refused(self, tokens: float, now_ms: int, *, limited: bool, told_ms: int) -> None:
        """The create was refused: it was charged nothing but, where `limited`, a request."""
        self.in_flight = max(0, self.in_flight - 1)
        self._day_used = max(0.0, self._day_used - tokens)
        if self._tokens is not None:
            self._tokens.give_back(tokens)
        if not limited:
            return
        served, most = self._served_per_min(now_ms), self.rates.tokens_per_min
        if most and served and now_ms - self._refused_ms >= FALL_EVERY_MS:
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
        """Book what was used beyond the reservation."""
        if self._tokens is not None:
            self._tokens.level = min(self._tokens.level + tokens - used, self._tokens.capacity)

    def _fit(self, now_ms: int) -> None:
        """Give the meters this worker's share of the limits known now."""
        tokens, requests = self.tokens_per_min, self.rates.requests_per_min
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
            risen = self._found * (1 + RISE_PER_MIN * min(elapsed_ms, 60_000) / 60_000)
            most = self.rates.tokens_per_min
            self._found = None if most is None or risen >= most else risen
            self._fit(now_ms)

    def _to_day(self, now_ms: int) -> None:
        day = now_ms // DAY_MS
        if day != self._day:
            self._day, self._day_used = day, 0.0
