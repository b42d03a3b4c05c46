"""The hedges that a what-if permits, by the product's own policy. Pure.

As `streams.scheduler.hedges`, which permits them in a worker: age, budget and stops are learned from the facts that are
replayed. All responses count as those of one worker. As it was: a recorded stamp stays, and nothing else is permitted.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from backstop.audit.whatif.policy import Hedging
from schemas.base import Message
from schemas.hedges import HedgePermit
from schemas.jobs import AttemptAccepted, AttemptRejected, AttemptSettled, AttemptUnknown, JobPolicy, JobSubmitted
from schemas.responses import (
    LAST_POLL_LEAD_MS,
    ResponseClaimed,
    ResponseObserved,
    ResponseReleased,
    ResponseTimerFired,
)
from schemas.results import JobResult
from streams.fold import response
from streams.policy.hedging import ClassStop, HedgeAge, HedgeBudget, LaneStop, again_ms, ends_for_age, hedge_age
from streams.policy.latency import Latencies

AGES_VALID_MS: Final = 10_000
OPEN_OUTCOMES: Final = ("running", "missing", "odd")


@dataclass(slots=True)
class _Model:
    of_class: ClassStop = field(default_factory=ClassStop)
    of_lane: LaneStop = field(default_factory=LaneStop)
    age: HedgeAge | None = None
    aged_at_ms: int = -AGES_VALID_MS

    @property
    def stopped_until_ms(self) -> int:
        return max(self.of_lane.until_ms, self.of_class.until_ms)


class HedgeDesk:
    """Decides which responses get a second attempt beside them."""

    def __init__(self, hedging: Hedging | None, hedgeable: frozenset[str], models: dict[str, str]) -> None:
        """:param hedgeable: jobs whose request two attempts can do without harm."""
        self._asked = hedging is not None
        self._hedging = hedging or Hedging()
        self._hedgeable = hedgeable
        self._names = models
        self._latencies = Latencies()
        self._budget = HedgeBudget(self._hedging.share)
        self._models: dict[str, _Model] = defaultdict(_Model)

    def submitted(self, fact: JobSubmitted) -> JobSubmitted:
        """The submission, with the permission to be hedged that the mode gives it."""
        if not self._asked or self._hedging.mode == "asked":
            return fact
        may = self._hedging.mode == "all" and fact.job_id in self._hedgeable
        policy: JobPolicy = fact.policy.model_copy(update={"hedge": True if may else None})
        return fact.model_copy(update={"policy": policy})

    def accepted(self, fact: AttemptAccepted, *, may: bool, recorded: bool, moved_ms: int) -> AttemptAccepted:
        """The acceptance, with the time at which to ask. :param may: its command says that it may be hedged."""
        at_ms = fact.hedge_at_ms
        if self._asked:
            age = self._age(self._names.get(fact.job_id, ""), fact.at_ms) if may and fact.end is None else None
            at_ms = None if age is None else fact.at_ms + max(1, age.after_ms)
        elif at_ms is not None:
            at_ms = at_ms + moved_ms if recorded else None
        return fact.model_copy(update={"hedge_at_ms": at_ms})

    def asks_again_ms(self, state: response.ResponseState, at_ms: int) -> int | None:
        """For a timer that only asks for a permission, and gets none: when to ask again."""
        if not self._asked or not isinstance(state, response.Running) or at_ms >= state.poll_at_ms:
            return None
        permit, ask_at_ms = self._ask(state, at_ms, spend=False)
        return None if permit is not None else min(state.poll_at_ms, ask_at_ms or state.poll_at_ms)

    def timer(self, fact: ResponseTimerFired, state: response.ResponseState) -> ResponseTimerFired:
        """The timer with a permission, or with the time to ask again."""
        if not self._asked:
            return fact
        permit, ask_at_ms = None, None
        if isinstance(state, response.Running) and fact.due_ms in (state.poll_at_ms, response.due_ms(state)):
            permit, ask_at_ms = self._ask(state, fact.at_ms, spend=True)
            if fact.due_ms != state.poll_at_ms:
                fact = fact.model_copy(update={"next_poll_at_ms": state.poll_at_ms, "poll_basis": None})
        return fact.model_copy(update={"permit": permit, "hedge_at_ms": ask_at_ms})

    def took(self, fact: Message) -> None:
        """Learn from a fact that was folded."""
        match fact:
            case JobSubmitted() if fact.policy.hedge:
                self._budget.submitted(fact.at_ms)
            case ResponseClaimed() if fact.hedge is not None:
                self._latencies.began(fact.response_id, (fact.hedge.model,), fact.at_ms, fact.at_ms)
            case ResponseReleased():
                self._left(fact.response_id, fact.at_ms)
            case ResponseObserved() if fact.outcome not in OPEN_OUTCOMES:
                began_ms, ended_ms = fact.provider_created_at_ms, fact.provider_ended_at_ms
                if fact.outcome == "cancelled" or began_ms is None or ended_ms is None:
                    self._left(fact.response_id, fact.at_ms)
                else:
                    self._latencies.ended(fact.response_id, max(0, ended_ms - began_ms), fact.at_ms)
            case AttemptSettled() if fact.status != "cancelled":
                self._outcome(fact, failed=fact.status not in ("completed", "incomplete"))
            case AttemptRejected() | AttemptUnknown():
                self._outcome(fact, failed=True)
            case _:
                pass

    def ended(self, result: JobResult) -> None:
        hedge = result.hedge
        if hedge is None or result.model is None or all(each.attempt != hedge.attempt for each in result.attempts):
            return
        stop = self._models[result.model].of_class
        if hedge.won == "hedge":
            stop.won()
        elif hedge.won == "first":
            stop.lost(result.at_ms)

    def _ask(self, state: response.Running, at_ms: int, *, spend: bool) -> tuple[HedgePermit | None, int | None]:
        """A permission, or when to ask again; with neither: at the next poll."""
        hedge, claim = state.hedge, state.claim
        waits = hedge is None or hedge.permit is not None or state.sight.told is not None
        deadline_ms = claim.last_poll_at_ms + LAST_POLL_LEAD_MS
        if hedge is None or waits or state.released_at_ms is not None or at_ms >= deadline_ms:
            return None, None
        age, age_ms = self._age(hedge.model, at_ms), at_ms - claim.claimed_at_ms
        if age is None:
            return None, at_ms + again_ms(age_ms)
        not_before_ms = max(claim.claimed_at_ms + age.after_ms, self._models[hedge.model].stopped_until_ms)
        if at_ms < not_before_ms:
            return None, not_before_ms
        if deadline_ms - at_ms < age.median_ms:
            return None, None
        if self._budget.level < 1.0 or (spend and not self._budget.take()):
            return None, at_ms + again_ms(age_ms)
        permit = HedgePermit(age_ms=max(0, age_ms), after_ms=age.after_ms, share=self._hedging.share, ended=age.ended)
        return permit, None

    def _age(self, model: str, at_ms: int) -> HedgeAge | None:
        known = self._models[model]
        if at_ms - known.aged_at_ms >= AGES_VALID_MS:
            many = self._latencies.curves([(model,)], at_ms, ends_for_age(self._hedging.share))[model,]
            known.age = hedge_age(many, self._latencies.curve((model,), at_ms), self._hedging.share)
            known.aged_at_ms = at_ms
        return known.age

    def _outcome(self, fact: AttemptSettled | AttemptRejected | AttemptUnknown, *, failed: bool) -> None:
        cause = None if isinstance(fact, AttemptUnknown) else fact.cause
        lane = self._models[self._names.get(fact.job_id, "")].of_lane
        if isinstance(fact, AttemptRejected) and cause not in (
            "limited", "overloaded", "faulty", "account", "unsent", "later"
        ):  # fmt: skip
            return
        lane.outcome(fact.at_ms, failed=failed)
        if failed and cause == "limited":
            lane.trouble(fact.at_ms)

    def _left(self, response_id: str, at_ms: int) -> None:
        known = self._latencies.opened(response_id)
        if known is not None:
            self._latencies.left(response_id, known.age_ms(at_ms), at_ms)
