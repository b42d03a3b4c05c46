"""The hedge of a job: granted here, once, and told in the result. Pure. Rules: docs/hedging.md."""

from dataclasses import replace

from schemas.hedges import HedgeTerms
from schemas.jobs import AttemptAccepted, AttemptSettled, HedgePermitted, JobPolicy
from schemas.results import HedgeBrief
from streams.fold.attempt_begins import begin_attempt
from streams.fold.attempts import Attempts, Hedged, Running
from streams.fold.job_caps import capped
from streams.fold.job_states import Active, JobState, Open, Spec
from streams.fold.step import Ignored, Step
from streams.policy.retry import Spend


def hedge_granted(state: Open, event: HedgePermitted) -> Step[JobState]:
    """Begin a second attempt beside the slow one, if that still runs alone."""
    spec, attempts = state.spec, state.attempts
    if attempts.hedge is not None:
        return Step(state, ignored=Ignored.DUPLICATE)
    if spec.request is None or not spec.policy.hedge:
        return Step(state, ignored=Ignored.IMPOSSIBLE)
    slow = attempts.of_response(event.response_id)
    late = event.at_ms >= spec.deadline_at_ms
    if not isinstance(state, Active) or late or slow is None or not attempts.alone(slow.number):
        return Step(state, ignored=Ignored.STALE)
    if capped(spec, attempts) is not None:
        return Step(state, ignored=Ignored.STALE)  # What is spent leaves no room for a second attempt.
    hedge = Hedged(attempts.last_number + 1, slow.number, event.permit.age_ms)
    return begin_attempt(spec, spec.request, replace(attempts, hedge=hedge), event)


def terms_of(event: AttemptAccepted, spec: Spec, attempts: Attempts) -> HedgeTerms | None:
    """What the response fold must know to ask for a hedge of this attempt; None if it may not have one."""
    if not spec.policy.hedge or spec.request is None or attempts.hedge is not None:
        return None
    return HedgeTerms(model=spec.model, at_ms=event.hedge_at_ms)


def budget_of(attempts: Attempts, policy: JobPolicy, spend: Spend) -> Spend:
    """The budget that decides about a retry.

    A hedge may be refused after the other attempt has used up the retries: a refusal alone must not grant one more.
    """
    return "paid" if attempts.hedge is not None and attempts.retries > policy.retries_max else spend


def hedge_brief(attempts: Attempts, settled: AttemptSettled | None) -> HedgeBrief | None:
    """What the result tells of the hedge; None without one. `settled` is the end that ended the job."""
    hedge = attempts.hedge
    if hedge is None:
        return None
    brief = HedgeBrief(attempt=hedge.number, beside=hedge.beside, begun_after_ms=hedge.after_ms)
    winner = attempts.of_response(settled.response_id) if settled is not None else None
    if settled is None or winner is None or settled.status not in ("completed", "incomplete"):
        return brief
    match winner.number:
        case hedge.number:
            loser = attempts.get(hedge.beside)
            ahead_ms = winner.accepted_at_ms - loser.accepted_at_ms if isinstance(loser, Running) else None
            return brief.model_copy(update={"won": "hedge", "ahead_ms": ahead_ms})
        case hedge.beside:
            return brief.model_copy(update={"won": "first"})
        case _:
            return brief
