"""When a hedge may begin: the age, the budget, and what stops hedges. Pure: time and events are handed in.

Rules, before the code (docs/hedging.md):
- A response may be hedged once it is older than all but a share of the responses of its class: the Kaplan-Meier
  quantile, not smoothed. Without enough ends (`ENDS_MIN`), or while the quantile is not known, there are no hedges.
- The budget is that share of the submissions. It is empty at a start, so a restart grants no burst.
- A class whose hedges lose stops: a sequential test between "20 % win" and "5 % win". After a rest it tries again with
  half of the score, and each further rest is twice as long.
- A lane in trouble stops all its hedges: in a brown-out every job is slow, and a hedge makes it worse.
Everything here is in memory and may be lost. A wrong estimate costs tokens within the budget, never a job.
"""

from collections import deque
from dataclasses import dataclass, field
from math import ceil, log
from typing import Final, Literal, Protocol

ENDS_MIN = 100
"""Fewer ends say too little of a high quantile. A setting: with fewer, the age is about that of the longest run."""

ENDS_LEAST = 5
"""The least that can be set for it: the median of fewer says nothing of whether an attempt fits before the deadline."""

AGE_FACTOR_MAX = 1.25
"""The greatest age at which a hedge begins, as a multiple of the longest run: beyond it nothing is known."""

TAIL_ENDS = 40
"""The age is estimated from the newest ends of which so many lie beyond it: 2,000 ends at a share of 2 %. From 300 ends
six do, and chance moves the age by half.
"""

CONTRADICTION = 4.0
"""The newest 300 ends overrule the many if this times as many of them, or this times fewer, lie beyond the age."""

STUCK_MEDIANS = 20
"""A response that runs for so many medians is taken for stuck."""

LEVEL_MAX = 10.0
SAVED_MS = 1_800_000
"""The budget of so much time can be saved up. With less of it the budget is empty most of the time, as it is spent as
fast as it grows: responses then wait for their permission."""

AGAIN_MS = 15_000
AGAIN_PART = 20
"""When a response asks again if the budget was empty or the age is not known: after 15 s, or a 20th of its own age."""

WON: Final = log(0.05 / 0.20)
LOST: Final = log(0.95 / 0.80)
"""What a hedge that won or lost says for "5 % win" against "20 % win"."""

SCORE_MIN = -6.0
SCORE_STOP: Final = log(22)
"""With odds of 22 to 1 that hedges rarely win the class stops: after 18 losses at first. At 20 to 1, 1.04 % of the
classes in which a quarter wins would be stopped within 1,000 hedges; the goal is 1 %, and it is 0.94 % now.
"""

SCORE_AGAIN = 1.5
REST_MS = 3_600_000
REST_MS_MAX = 24 * REST_MS

OUTCOMES = 50
FAILED_MAX = 5
"""More failures than this among the last `OUTCOMES` of a lane are a brown-out."""

LANE_REST_MS = 600_000

Why = Literal["unknown", "young", "class", "lane", "budget", "deadline", "busy"]
"""Why no hedge begins: too few ends; not old enough; the class or the lane stopped; no budget; too little time left;
jobs wait for the lane."""


class RunTimeCurve(Protocol):
    """How long responses of a class run: a Kaplan-Meier curve."""

    @property
    def ends(self) -> int: ...
    @property
    def oldest_end_ms(self) -> float | None: ...
    @property
    def oldest_seen_ms(self) -> float: ...
    def running(self, age_ms: float) -> float: ...
    def quantile_ms(self, share: float) -> float | None:
        """The run time that this share of responses does not exceed; None if it is not known."""


def again_ms(age_ms: int) -> int:
    """The wait of a response of this age before it asks again."""
    return max(AGAIN_MS, age_ms // AGAIN_PART)


@dataclass(frozen=True, slots=True)
class HedgeAge:
    """The age from which on a response may be hedged, and the number of ends from which it was estimated."""

    after_ms: int
    ended: int
    median_ms: int


def ends_for_age(share: float) -> int:
    """Ends from which the age is estimated that `share` of the responses reach."""
    return max(ENDS_MIN, ceil(TAIL_ENDS / share))


def hedge_age(
    many: RunTimeCurve, newest: RunTimeCurve, share: float, ends_min: int = ENDS_MIN
) -> HedgeAge | None:  # fmt: skip
    """The age that `share` of the responses reach; None if too little is known.

    :param many: of `ends_for_age(share)` ends, as far as there are so many.
    :param newest: of fewer ends. It decides where the run times have changed.
    :param ends_min: ends without which nothing is known.
    """
    oldest_ms = many.oldest_end_ms
    if many.ends < ends_min or oldest_ms is None:
        return None
    quantile_ms, median_ms = many.quantile_ms(1 - share), newest.quantile_ms(0.5)
    if quantile_ms is None or median_ms is None:
        return None
    after_ms = min(quantile_ms, AGE_FACTOR_MAX * oldest_ms)
    if newest.ends >= ENDS_MIN:
        least_ms = newest.quantile_ms(1 - min(0.5, CONTRADICTION * share))
        most_ms = newest.quantile_ms(1 - share / CONTRADICTION)
        # An age of the newest that is not known yet is beyond all of them.
        after_ms = max(after_ms if most_ms is None else min(after_ms, most_ms), least_ms or 0)
    return HedgeAge(round(after_ms), many.ends, round(median_ms))


def stuck_share(curve: RunTimeCurve) -> float:
    """The share of responses that run for `STUCK_MEDIANS` and longer; 0 while none was seen to.

    Where it is above the share that may be hedged, the age lies beyond all that is not stuck, and hedges gain nothing.
    """
    median_ms = curve.quantile_ms(0.5)
    if curve.ends < ENDS_MIN or median_ms is None or curve.oldest_seen_ms < STUCK_MEDIANS * median_ms:
        return 0.0
    return curve.running(STUCK_MEDIANS * median_ms)


@dataclass(slots=True)
class HedgeBudget:
    """A share of the submissions, in a bucket that holds half an hour's worth of it, or `LEVEL_MAX` hedges."""

    share: float
    level: float = 0.0
    _span: int = 0
    _count: int = 0
    _count_before: int = 0

    def submitted(self, now_ms: int) -> None:
        self._turn(now_ms)
        self._count += 1
        self.level = min(self.level + self.share, max(LEVEL_MAX, self.share * max(self._count, self._count_before)))

    def take(self) -> bool:
        """Whether a hedge is granted. If so, it is spent."""
        if self.level < 1.0:
            return False
        self.level -= 1.0
        return True

    def _turn(self, now_ms: int) -> None:
        span = now_ms // SAVED_MS
        if span != self._span:
            self._count_before = self._count if span == self._span + 1 else 0
            self._span, self._count = span, 0


@dataclass(slots=True)
class ClassStop:
    """Whether hedges of a class win often enough: a sequential probability ratio test."""

    score: float = 0.0
    rests: int = 0
    until_ms: int = 0

    def lost(self, now_ms: int) -> None:
        self.score += LOST
        if self.score < SCORE_STOP or now_ms < self.until_ms:
            return
        self.until_ms = now_ms + min(REST_MS << min(self.rests, 5), REST_MS_MAX)
        self.rests += 1
        self.score = SCORE_AGAIN

    def won(self) -> None:
        self.score = max(self.score + WON, SCORE_MIN)
        if self.score <= 0:
            self.rests = 0


@dataclass(slots=True)
class LaneStop:
    """Whether a lane is well enough for hedges."""

    rest_ms: int = LANE_REST_MS
    until_ms: int = 0
    _failed: deque[bool] = field(default_factory=lambda: deque(maxlen=OUTCOMES))

    def outcome(self, now_ms: int, *, failed: bool) -> None:
        self._failed.append(failed)
        if failed and sum(self._failed) > FAILED_MAX:
            self.trouble(now_ms)

    def trouble(self, now_ms: int) -> None:
        """A rate limit, a closed lane, or too many failures."""
        self.until_ms = max(self.until_ms, now_ms + self.rest_ms)
