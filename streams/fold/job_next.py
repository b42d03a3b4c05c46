"""What becomes of an open job that has no live attempt: the next attempt, a wait, or the end. Pure."""

from dataclasses import replace
from typing import assert_never

from schemas.base import Body, Cause
from schemas.jobs import AttemptSettled, JobFact
from schemas.results import Reason
from schemas.statuses import JobOutcome
from streams.fold.attempt_begins import begin_attempt
from streams.fold.attempts import Attempts
from streams.fold.claims import release
from streams.fold.job_caps import capped
from streams.fold.job_ended import finished
from streams.fold.job_fallbacks import fallen, model_of_attempt
from streams.fold.job_hedges import budget_of
from streams.fold.job_states import NOT_REPEATED, UNUSABLE_ID, BackingOff, JobState, Open, Spec
from streams.fold.result import make_result
from streams.fold.step import Step
from streams.policy.retry import GiveUp, Retry, RetryDecision, Spend, next_attempt


def begin(state: Open, request: Body, event: JobFact) -> Step[JobState]:
    """Begin the next attempt, or end the job where its cap leaves no room: usage may have come while it waited."""
    last = state.why if isinstance(state, BackingOff) else None
    reason = capped(state.spec, state.attempts, last)
    if reason is not None:
        return finish(state, event, "failed", reason)
    return begin_attempt(state.spec, request, state.attempts, event)


def refused(
    state: Open, number: int, event: JobFact, cause: Cause, reason: Reason, wait_ms: int = 0,
    held_for: Cause | None = None,
) -> Step[JobState]:  # fmt: skip
    """The create of an attempt made no response. What was held was not sent, and counts for nothing."""
    attempts = state.attempts.reject(number)
    if cause != "held":
        attempts = attempts.count(number, "refused", cause)
    after = replace(state, attempts=attempts)
    if attempts.awaited():  # Another attempt is live: only the count changes.
        return Step(after)
    return again(after, event, "refused", cause, wait_ms, reason, held_for=held_for)


def again(
    state: Open, event: JobFact, spend: Spend, cause: Cause, told_ms: int, reason: Reason,
    settled: AttemptSettled | None = None, held_for: Cause | None = None,
) -> Step[JobState]:  # fmt: skip
    """No attempt is live any more: schedule the next one, or end the job."""
    spec, attempts = state.spec, state.attempts
    decision: RetryDecision = GiveUp(NOT_REPEATED)
    if spec.request is not None:
        decision = next_attempt(
            spec.policy,
            seed=event.job_id,
            now_ms=event.at_ms,
            deadline_ms=spec.deadline_at_ms,
            cause=cause,
            told_ms=told_ms,
            spend=budget_of(attempts, spec.policy, spend),
            spent=attempts.spent(),
        )
    stop = capped(spec, attempts, reason) if isinstance(decision, Retry) else None
    if stop is not None:
        decision, reason = GiveUp(stop.message), stop
    after = None
    elsewhere = isinstance(decision, GiveUp) and decision.another_model and not _unreadable(settled)
    if elsewhere and capped(spec, attempts) is None:
        after = fallen(spec, attempts, "refused", f"{reason.code} {reason.message}".strip())
    match decision:
        case GiveUp() if after is not None:
            fresh = replace(attempts, streak=0, streak_cause=None)  # The causes of another model are counted anew.
            return Step(BackingOff(after, fresh, event.at_ms, reason, cause))
        case Retry():
            return Step(BackingOff(spec, attempts, decision.at_ms, reason, cause, held_for))
        case GiveUp() if attempts.abandoned() and spend == "refused":
            return Step(BackingOff(spec, attempts, spec.deadline_at_ms, reason, cause, held_for, last=True))
        case GiveUp():
            if cause != "never" and stop is None:
                reason = reason.model_copy(update={"message": f"{reason.message} ({decision.why})".strip()})
            return finish(state, event, "failed", reason, settled)
        case _:
            assert_never(decision)


def _unreadable(settled: AttemptSettled | None) -> bool:
    """Whether the response was created and can't be read: one of another model would be paid and not read either."""
    return settled is not None and (settled.status == "missing" or settled.code == UNUSABLE_ID)


def finish(
    state: Open, event: JobFact, outcome: JobOutcome, reason: Reason | None,
    settled: AttemptSettled | None = None,
) -> Step[JobState]:  # fmt: skip
    """End an open job: publish its result, and release each response that still runs. The only place that does so."""
    spec, attempts = state.spec, state.attempts
    result = make_result(
        event, attempts, outcome, reason, tenant=spec.tenant, settled=settled, model=_model(spec, attempts, settled),
        submitted_at_ms=spec.submitted_at_ms, session_id=spec.session_id, tags=spec.tags,
        public_url=spec.policy.public_url, retry_of=spec.retry_of, fell=spec.fell,
        traceparent=spec.traceparent,
    )  # fmt: skip
    releases = tuple(release(event, attempt.response_id) for attempt in attempts.running())
    return Step(finished(state, event, outcome), (result, *releases))


def _model(spec: Spec, attempts: Attempts, settled: AttemptSettled | None) -> str | None:
    """The model of the attempt that ended the job; without one, that of the last attempt or of the next."""
    decider = attempts.of_response(settled.response_id) if settled is not None else None
    return (spec.model if decider is None else model_of_attempt(spec, decider.number)) or None
