"""Permits hedges by the rules of `streams.policy.hedging`, and learns from facts when to permit none. Pure.

A worker asks it (`streams.scheduler.hedges`), and so does a what-if. Nothing is stored: at first the budget is empty,
and nothing is known of classes and lanes.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from schemas.base import NEVER_SENT, Cause, Message
from schemas.hedges import HedgePermit
from schemas.jobs import AttemptRejected, AttemptSettled, AttemptUnknown, JobSubmitted
from schemas.results import JobResult
from streams.policy.hedging import (
    ENDS_MIN,
    LANE_REST_MS,
    ClassStop,
    HedgeAge,
    HedgeBudget,
    LaneStop,
    Why,
    again_ms,
    ends_for_age,
    hedge_age,
    stuck_share,
)
from streams.policy.lanes import breaks_of
from streams.policy.latency import Latencies, LatencyClass, levels

MODELS_MAX = 1_000
"""Models whose stops are remembered. Beyond it the oldest one is forgotten, which costs some hedges."""

AGES_VALID_MS = 10_000
"""How long an estimated age is used. Computing it takes a pass over all open responses."""

UNKNOWN_VALID_MS = 2_000
"""The same where too little was known: after a start the log tells of earlier ends within moments, and a response that
is accepted without an age is never hedged.
"""

AGES_MAX = 500
BUSY_AGAIN_MS = 5_000

HedgeCount = Literal["permitted", "won", "lost"]


@dataclass(frozen=True, slots=True)
class Slow:
    """A response that runs and may be hedged."""

    response_id: str
    model: str
    tenant: str
    accepted_at_ms: int
    deadline_at_ms: int


@dataclass(frozen=True, slots=True)
class NoHedgeNow:
    """No hedge now. Ask again at `ask_at_ms`; None: at the next poll."""

    why: Why
    ask_at_ms: int | None = None


@dataclass(slots=True)
class _Stops:
    of_class: ClassStop
    of_lane: LaneStop


class HedgePermits:
    """Permits hedges, and learns from facts of jobs when to permit none."""

    def __init__(
        self,
        latencies: Latencies,
        share: float,
        *,
        ends_min: int = ENDS_MIN,
        lane_rest_ms: int = LANE_REST_MS,
        troubled: Callable[[str], bool] = lambda _model: False,
        busy: Callable[[str, str], bool] = lambda _model, _tenant: False,
    ) -> None:
        """:param share: of the submissions that may be hedged, and so the age at which one may: the budget.
        :param ends_min: responses that have ended, without which no age is known.
        :param lane_rest_ms: after trouble of a lane.
        :param troubled: whether creates of the model fail now, here or at another worker.
        :param busy: whether a create of the model and tenant would have to wait for its turn.
        """
        self._latencies = latencies
        self._share = share
        self._ends_min = ends_min
        self._lane_rest_ms = lane_rest_ms
        self._troubled = troubled
        self._busy = busy
        self._budget = HedgeBudget(share)
        self._stops: OrderedDict[str, _Stops] = OrderedDict()
        self._ages: dict[LatencyClass, HedgeAge | None] = {}
        self._ages_at_ms = self._unknown_at_ms = 0

    def hedge_at_ms(self, response_id: str, model: str, now_ms: int) -> int | None:
        """When to ask for a hedge of a response that was accepted just now; None while too little is known."""
        age = self._age(response_id, model, now_ms)
        return None if age is None else now_ms + max(1, age.after_ms)

    def ask(self, slow: Slow, now_ms: int) -> HedgePermit | NoHedgeNow:
        """Whether a hedge of the response may begin now. A permission is spent from the budget."""
        age = self._age(slow.response_id, slow.model, now_ms)
        if age is None:
            return NoHedgeNow("unknown", now_ms + again_ms(now_ms - slow.accepted_at_ms))
        after_at_ms = slow.accepted_at_ms + age.after_ms
        if now_ms < after_at_ms:
            return NoHedgeNow("young", after_at_ms)
        against = self._against(slow, age, now_ms)
        if against is not None:
            return against
        self._counted("permitted")
        return HedgePermit(
            age_ms=max(0, now_ms - slow.accepted_at_ms), after_ms=age.after_ms, share=self._share, ended=age.ended
        )

    def _against(self, slow: Slow, age: HedgeAge, now_ms: int) -> NoHedgeNow | None:
        """What speaks against a hedge of a response that is old enough. None: it is spent from the budget."""
        stops = self._of(slow.model)
        if self._troubled(slow.model):
            stops.of_lane.trouble(now_ms)
        if now_ms < stops.of_lane.until_ms:
            return NoHedgeNow("lane", stops.of_lane.until_ms)
        if now_ms < stops.of_class.until_ms:
            return NoHedgeNow("class", stops.of_class.until_ms)
        if slow.deadline_at_ms - now_ms < age.median_ms:
            return NoHedgeNow("deadline")
        if self._busy(slow.model, slow.tenant):
            return NoHedgeNow("busy", now_ms + BUSY_AGAIN_MS)
        return None if self._budget.take() else NoHedgeNow("budget", now_ms + again_ms(now_ms - slow.accepted_at_ms))

    def took(self, fact: Message, model: str | None) -> None:
        """A fact of a job was folded. :param model: of the job; None if it is not known."""
        match fact:
            case JobSubmitted():
                if fact.policy.hedge:
                    self.submitted(fact.at_ms)
            case AttemptSettled():
                if fact.status != "cancelled":
                    failed = fact.status not in ("completed", "incomplete")
                    self.outcome(model, fact.cause, fact.at_ms, failed=failed)
            case AttemptRejected():
                if says_of_lane(fact):
                    self.outcome(model, fact.cause, fact.at_ms, failed=True)
            case AttemptUnknown():
                self.outcome(model, None, fact.at_ms, failed=True)
            case _:
                pass

    def _counted(self, outcome: HedgeCount) -> None:
        """Called for each permission, and for each hedge that won or lost."""

    def _found_stuck(self, model: str, of_share: float) -> None:
        """Called with the stuck share of each model as it is estimated, as a multiple of the share to be hedged."""

    def ended(self, result: JobResult) -> None:
        """A job has ended."""
        hedge = result.hedge
        if hedge is None or result.model is None:
            return
        # A hedge that was refused cost nothing.
        if any(brief.attempt == hedge.attempt for brief in result.attempts):
            self.decided(result.model, hedge.won, result.at_ms)

    def submitted(self, now_ms: int) -> None:
        """A job was submitted that may be hedged."""
        self._budget.submitted(now_ms)

    def decided(self, model: str, won: Literal["first", "hedge"] | None, now_ms: int) -> None:
        """A job with a hedge has ended."""
        stop = self._of(model).of_class
        if won == "hedge":
            self._counted("won")
            stop.won()
        elif won == "first":
            self._counted("lost")
            stop.lost(now_ms)

    def outcome(self, model: str | None, cause: Cause | None, now_ms: int, *, failed: bool) -> None:
        """An attempt ended or was refused. `model`: None if it is not known."""
        if model is None:
            return
        lane = self._of(model).of_lane
        lane.outcome(now_ms, failed=failed)
        if failed and cause == "limited":
            lane.trouble(now_ms)

    def _of(self, model: str) -> _Stops:
        stops = self._stops.get(model)
        if stops is None:
            stops = self._stops[model] = _Stops(ClassStop(), LaneStop(self._lane_rest_ms))
            if len(self._stops) > MODELS_MAX:
                self._stops.popitem(last=False)
        return stops

    def _age(self, response_id: str, model: str, now_ms: int) -> HedgeAge | None:
        """Of the narrowest class of the response that knows enough; all models together say nothing."""
        known = self._latencies.opened(response_id)
        wanted = [of for of in levels((model,) if known is None else known.of) if of]
        if now_ms - self._ages_at_ms >= AGES_VALID_MS or len(self._ages) > AGES_MAX:
            self._ages, self._ages_at_ms = {}, now_ms
        if now_ms - self._unknown_at_ms >= UNKNOWN_VALID_MS:
            self._ages = {of: age for of, age in self._ages.items() if age is not None}
            self._unknown_at_ms = now_ms
        lacking = [of for of in wanted if of not in self._ages]
        if lacking:
            many = self._latencies.curves(lacking, now_ms, ends_for_age(self._share))
            newest = self._latencies.curves(lacking, now_ms)
            self._ages |= {of: hedge_age(many[of], newest[of], self._share, self._ends_min) for of in lacking}
            for of in lacking:
                if len(of) == 1:
                    self._found_stuck(of[0], stuck_share(many[of]) / self._share)
        return next((age for of in wanted if (age := self._ages[of]) is not None), None)


def says_of_lane(refusal: AttemptRejected) -> bool:
    """Whether a refusal says that the lane is in trouble: not the request, and not this worker, which may have taken up
    the command too late or could not read its body.
    """
    if refusal.cause == "unsent":
        return refusal.code == NEVER_SENT
    return breaks_of(refusal.cause) is not None or refusal.cause == "later"
