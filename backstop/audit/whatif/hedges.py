"""The hedges that a what-if permits, by the product's own policy. Pure.

As the scheduler of a worker that starts with the range: age, budget and stops are learned from the facts that are
replayed, and all responses count as those of one worker. Where the policy does not name hedging, a response is
permitted a hedge at the age at which the log permitted it, and no other is.
"""

from typing import Any, TypeGuard

from backstop.audit.whatif.policy import Hedging
from backstop.audit.whatif.recorded import Recorded
from backstop.audit.whatif.stamps import ALONE
from schemas.base import Message
from schemas.hedges import HedgePermit
from schemas.jobs import AttemptAccepted, JobSubmitted
from schemas.responses import ResponseTimerFired
from schemas.results import JobResult
from streams.fold import response
from streams.fold.hedge_asks import slow_response
from streams.policy.hedge_permits import HedgePermits
from streams.policy.hedged_runs import HedgedRuns
from streams.policy.latency import Latencies


class HedgeDesk:
    """Decides which responses get a second attempt beside them."""

    def __init__(self, hedging: Hedging | None, recorded: Recorded) -> None:
        self._hedging = hedging
        self._hedgeable = recorded.hedgeable
        self._models = recorded.models
        self._recorded = recorded.permits
        self._at_ms = 0
        latencies = Latencies()
        policy = hedging or Hedging()
        self._permits = HedgePermits(latencies, policy.share, ends_min=policy.ends_min)
        self._runs = HedgedRuns(latencies, lambda: self._at_ms)

    def submitted(self, fact: JobSubmitted) -> JobSubmitted:
        """The submission, with the permission to be hedged that the mode gives it."""
        if self._hedging is None or self._hedging.mode == "asked":
            return fact
        allowed = fact.policy.hedge is True or fact.job_id in self._hedgeable
        may = True if self._hedging.mode == "all" and allowed else None
        return fact.model_copy(update={"policy": fact.policy.model_copy(update={"hedge": may})})

    def accepted(self, fact: AttemptAccepted, *, may: bool, recorded: bool, moved_ms: int) -> AttemptAccepted:
        """The acceptance, with the time at which to ask. :param may: its command says that it may be hedged."""
        at_ms = fact.hedge_at_ms
        if self._hedging is not None:
            asks = may and fact.end is None
            model = self._models.get(fact.job_id, "")
            at_ms = self._permits.hedge_at_ms(fact.response_id, model, fact.at_ms) if asks else None
        elif at_ms is not None:
            at_ms = at_ms + moved_ms if recorded else None
        return fact.model_copy(update={"hedge_at_ms": at_ms})

    def ask(self, response_id: str, state: response.ResponseState, at_ms: int) -> tuple[HedgePermit | None, int | None]:
        """A permission, or when to ask again; with neither: at the next poll."""
        slow = slow_response(response_id, state, at_ms) if isinstance(state, response.RunningResponse) else None
        if slow is None:
            return None, None
        if self._hedging is not None:
            answer = self._permits.ask(slow, at_ms)
            return (answer, None) if isinstance(answer, HedgePermit) else (None, answer.ask_at_ms)
        permit = self._recorded.get(response_id)
        if permit is None:
            return None, None
        permitted_ms = slow.accepted_at_ms + permit.age_ms
        return (permit, None) if at_ms >= permitted_ms else (None, permitted_ms)

    def timer(
        self, stamped: ResponseTimerFired, given: ResponseTimerFired, state: response.ResponseState, *, recorded: bool
    ) -> ResponseTimerFired:
        """The timer `given`, of which `stamped` has the next poll, with a permission or the time to ask again."""
        permit, ask_at_ms = given.permit, given.hedge_at_ms
        if recorded and self._hedging is not None:
            permit, ask_at_ms = self.ask(given.response_id, state, given.at_ms)
        changes = {"permit": permit, "hedge_at_ms": ask_at_ms}
        if isinstance(state, response.RunningResponse) and given.due_ms == response.due_ms(state) != state.poll_at_ms:
            changes |= {"next_poll_at_ms": state.poll_at_ms, "poll_basis": None}  # It only asked for a hedge.
        return stamped.model_copy(update=changes)

    def took(self, fact: Message) -> None:
        """Learn from a fact that was folded."""
        self._at_ms = max(self._at_ms, fact.at_ms)
        if fact.topic == "responses":
            self._runs.took(ALONE, fact)
        else:
            self._permits.took(fact, self._models.get(fact.key))

    def ended(self, result: JobResult) -> None:
        """Learn whether a hedge has won."""
        self._permits.ended(result)


def asks_only(state: Any, at_ms: int) -> TypeGuard[response.RunningResponse]:
    """Whether a timer at this time would only ask for a hedge, as the next poll is later."""
    return isinstance(state, response.RunningResponse) and state.hedge is not None and at_ms < state.poll_at_ms


def planned_ms(state: Any, due_ms: int | None) -> int | None:
    """The due time by which a replay sees that a key is as recorded: to ask for a hedge in vain leaves no fact."""
    return state.poll_at_ms if isinstance(state, response.RunningResponse) else due_ms
