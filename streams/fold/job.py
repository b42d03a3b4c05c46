"""The state machine of a job.

Rules, before the code:
- A job ends once, with one result: at the first attempt that completes (in log order) or that the provider ended as
  incomplete or cancelled; at its deadline; at a cancel; at a refusal or failure that no retry fixes; or out of retries.
- Facts after the end are late. A response that turns up late is claimed as released, so that it is cancelled and polled
  until it ends. Usage that is reported after the result is *booked*: a fact of its own (`UsageBooked`), once per
  response. The usage of a second response of one attempt is booked, too.
- An attempt is *submitting* (its command is published) until a report comes: accepted, rejected, or outcome unknown. If
  no report comes by `report_by_ms`, the outcome is unknown as well. An attempt with an unknown outcome may be adopted
  until `adopt_by_ms`. After that it is *abandoned*, and a retry is granted, unless the provider surely took it.
- An abandoned attempt may still be adopted. Then it runs beside its successor: the first one to complete wins, and the
  other one is released. A late report changes what an abandoned attempt counts for, and one that was taken is waited
  for again. One that was refused and made a response all the same takes the place of the next attempt, if that has not
  begun (`streams.fold.job_late`).
- A job that may be hedged can have one attempt beside a slow one, its *hedge* (`streams.fold.job_hedges`). The first to
  complete wins; while one of the two lives, no failure and no cancel of the other one ends the job. A hedge that was
  taken and named no response holds no retry back: it is granted beside the retries.
- A missing response is given up, and counts as paid. A stuck response is given up only if the job may spend another
  attempt. A response that is given up is released; if it completes while the job is open, it wins after all.
- A new attempt begins only while no other one is submitting, unknown or running. Whether and when:
  `streams.policy.retry`.
- A job that must be admitted is *waiting* until `JobAdmitted`; no attempt begins before. If it can't end before its
  deadline any more, it ends as expired at once. The command of its first attempt may be written beside the grant; one
  whose grant did not reach the log is reported as not sent, and counts as that attempt.
- A change of priority or deadline counts from its place in the log on. A deadline that has passed ends the job. So does
  any timer that is due at the deadline or later, as a log that earlier rules folded may hold no other one.
- A job with a cap has no further attempt that what it spent leaves no room for: it ends as failed (`cost_cap`), or as
  rejected where its input alone is too much. Rules: `streams.policy.caps`.
- A job with fallbacks goes on with another model where the one before refuses for good, or its lane stays closed.
  Rules: `streams.fold.job_fallbacks`.
- A refusal does not end a job that has an abandoned attempt, which may still run: that job waits until its deadline.
- A job that *adopted* a response begins with attempt 1 running, and has no other attempt, because its request is not
  known here: an application created the response. If the response belongs to another job, the adopting job ends as
  rejected and does not release the response.
"""

from dataclasses import replace
from typing import assert_never

from schemas.base import Cause, Usage
from schemas.erasures import JobErased
from schemas.jobs import (
    AdoptionRefused,
    AttemptAccepted,
    AttemptRejected,
    AttemptSettled,
    AttemptUnknown,
    CancelRequested,
    FallbackTaken,
    HedgePermitted,
    JobAdmitted,
    JobChanged,
    JobFact,
    JobFoundTooLate,
    JobRefused,
    JobSubmitted,
    JobTimerFired,
    ResponseAdopted,
    UsageBooked,
)
from schemas.results import Reason
from streams.fold.attempt_begins import begin_attempt
from streams.fold.attempts import Abandoned, Attempts, OutcomeUnknown, Over, Running, Submitting
from streams.fold.claims import booked, claim_for, claim_of_adopted, release, settled_at_once
from streams.fold.job_caps import capped, with_calls, with_second
from streams.fold.job_changes import changed, moved, reason_of_change
from streams.fold.job_ended import RESPONSES_REMEMBERED_MAX, after_end
from streams.fold.job_fallbacks import fallback_taken
from streams.fold.job_hedges import hedge_granted, terms_of
from streams.fold.job_late import found_after_all, given_to_another, named_again, refused_late, unknown_late
from streams.fold.job_next import again, begin, finish, refused
from streams.fold.job_states import (
    UNUSABLE_ID,
    Absent,
    Active,
    BackingOff,
    Finished,
    JobState,
    Open,
    Spec,
    Status,
    Waiting,
    due_ms,
    reason_of_deadline,
    spec_of_adopted,
    spec_of_submitted,
    status,
)
from streams.fold.result import make_result, reason_of_end, reason_of_refusal, reason_of_unknown
from streams.fold.step import Ignored, Step
from streams.policy.retry import Spend

__all__ = [
    "Absent", "Active", "BackingOff", "Finished", "JobState", "Spec", "Status", "Waiting", "due_ms", "status", "step",
]  # fmt: skip


def step(state: JobState, event: JobFact) -> Step[JobState]:
    """Fold one fact of a job. Total: a fact without effect returns the state and a reason (`Step.ignored`)."""
    match state:
        case Absent():
            return _begin(state, event)
        case Waiting() | Active() | BackingOff():
            return _advance(state, event)
        case Finished():
            return after_end(state, event)
        case _:
            assert_never(state)


def _begin(state: Absent, event: JobFact) -> Step[JobState]:
    match event:
        case JobSubmitted():
            spec = spec_of_submitted(event)
            waiting = Waiting(spec, Attempts(), event.at_ms)
            reason = capped(spec, waiting.attempts)
            if reason is not None:
                return finish(waiting, event, "rejected", reason)
            if spec.turn is not None and spec.turn.waits:
                return Step(waiting)
            return begin_attempt(spec, event.request, waiting.attempts, event)
        case ResponseAdopted():
            return _adopt(event)
        case JobRefused():
            finished = Finished(event.tenant, "", "rejected", event.at_ms, event.at_ms + event.forget_after_ms, ())
            reason = Reason(code=event.code, message=event.message)
            return Step(finished, (make_result(event, Attempts(), "rejected", reason, tenant=event.tenant),))
        case _:
            return Step(state, ignored=Ignored.UNKNOWN_KEY)


def _adopt(event: ResponseAdopted) -> Step[JobState]:
    running = Running(1, event.response_id, event.at_ms, adopted=True)
    return Step(Active(spec_of_adopted(event), Attempts((running,), last_number=1)), (claim_of_adopted(event),))


def _advance(state: Open, event: JobFact) -> Step[JobState]:
    match event:
        case JobSubmitted() | ResponseAdopted():
            same = event.request_sha256 == state.spec.request_sha256 and event.tenant == state.spec.tenant
            return Step(state, ignored=Ignored.DUPLICATE if same else Ignored.CONFLICT)
        case AdoptionRefused():
            return _not_adopted(state, event)
        case JobRefused() | JobErased():
            return Step(state, ignored=Ignored.CONFLICT)  # Only ended jobs are erased.
        case CancelRequested() | JobChanged():
            return _asked(state, event)
        case AttemptAccepted():
            return _accepted(state, event)
        case AttemptRejected() | AttemptUnknown():
            return _rejected(state, event) if isinstance(event, AttemptRejected) else _outcome_unknown(state, event)
        case AttemptSettled():
            return _settled(state, event)
        case JobTimerFired() | JobAdmitted() | JobFoundTooLate():
            return _timer(state, event) if isinstance(event, JobTimerFired) else _turn(state, event)
        case FallbackTaken():
            return fallback_taken(state, event)
        case HedgePermitted():
            return hedge_granted(state, event)
        case UsageBooked():
            return Step(state, ignored=Ignored.DUPLICATE)  # This fold wrote it, for the read model and the audit.
        case _:
            assert_never(event)


def _not_adopted(state: Open, event: AdoptionRefused) -> Step[JobState]:
    attempt = state.attempts.of_response(event.response_id)
    if not isinstance(attempt, Running):
        return Step(state, ignored=Ignored.STALE)
    if state.spec.request is not None:
        return given_to_another(state, attempt, event)
    # The response belongs to another job, so the end of this job must not release it.
    without = replace(state, attempts=state.attempts.reject(attempt.number))
    return finish(without, event, "rejected", Reason(code="response_taken", message=event.message))


def _asked(state: Open, event: CancelRequested | JobChanged) -> Step[JobState]:
    """A cancel, or a change of priority or deadline."""
    if event.tenant != state.spec.tenant:
        return Step(state, ignored=Ignored.CONFLICT)
    if isinstance(event, CancelRequested):
        reason = Reason(code="cancel_requested", message=event.reason or "cancelled by its submitter")
        return finish(state, event, "cancelled", reason)
    after = changed(state, event)
    if after is None:
        return Step(state, ignored=Ignored.DUPLICATE)
    if event.deadline_at_ms is not None and event.deadline_at_ms <= event.at_ms:
        return finish(after, event, "expired", reason_of_change(event))
    return Step(after, moved(after, event, state.spec.deadline_at_ms))


def _accepted(state: Open, event: AttemptAccepted) -> Step[JobState]:
    if event.tenant != state.spec.tenant:
        return Step(state, ignored=Ignored.IMPOSSIBLE)
    known = state.attempts.of_response(event.response_id)
    if known is not None:
        return named_again(state, known, event)
    attempt = state.attempts.get(event.attempt)
    match attempt:
        case Submitting() | OutcomeUnknown() | Abandoned():
            running = Running(event.attempt, event.response_id, event.at_ms, event.adopted)
            before = state.attempts.find(attempt) if isinstance(attempt, Abandoned) else state.attempts
            after = Active(state.spec, before.put(running))
            if event.end is not None:  # Nothing to poll: the answer to the create already held the end.
                return _over(after, running, settled_at_once(event, event.end))
            return Step(after, (claim_for(event, state.spec, hedge=terms_of(event, state.spec, before)),))
        case None if event.attempt > state.attempts.last_number:
            return Step(state, ignored=Ignored.IMPOSSIBLE)
        case None if event.adopted and event.end is None and not state.attempts.awaited():
            return found_after_all(state, event)
        case None | Running() | Over():
            if event.end is not None:
                return _booked(state, event, event.end.usage, Ignored.LATE)
            # A second response of one attempt, or the response of a refused attempt: no job waits for it, so cancel it.
            return Step(state, (claim_for(event, state.spec, released=True),))
        case _:
            assert_never(attempt)


def _rejected(state: Open, event: AttemptRejected) -> Step[JobState]:
    attempt = state.attempts.get(event.attempt)
    if isinstance(state, Waiting) and event.cause == "held" and event.attempt == state.attempts.last_number + 1:
        # Its command was written beside a grant that is not in the log, and not sent. Its id is used up.
        attempt = Submitting(event.attempt, event.at_ms, event.at_ms)
        state = replace(state, attempts=state.attempts.begin(attempt))
    if not isinstance(attempt, Submitting | OutcomeUnknown | Abandoned):
        return Step(state, ignored=Ignored.STALE)
    if isinstance(attempt, Abandoned):
        return refused_late(state, attempt, event)
    reason = reason_of_refusal(event)
    return refused(state, event.attempt, event, event.cause, reason, event.wait_ms, event.held_for)


def _outcome_unknown(state: Open, event: AttemptUnknown) -> Step[JobState]:
    attempt = state.attempts.get(event.attempt)
    if isinstance(attempt, OutcomeUnknown | Abandoned):
        return unknown_late(state, attempt, event)
    if not isinstance(attempt, Submitting):
        return Step(state, ignored=Ignored.STALE)
    adopt_by_ms = event.at_ms + state.spec.policy.adoption_grace_ms
    unknown = OutcomeUnknown(
        attempt.number, adopt_by_ms, event.answered is True, event.message, event.taken is True
    )  # fmt: skip
    return Step(Active(state.spec, state.attempts.put(unknown)))


def _settled(state: Open, event: AttemptSettled) -> Step[JobState]:
    attempt = state.attempts.of_response(event.response_id)
    match attempt:
        case None:
            return _booked(state, event, event.usage, Ignored.UNKNOWN_KEY)
        case Over() if not attempt.given_up or event.status not in ("completed", "incomplete"):
            return _counted(state, attempt, event, Ignored.DUPLICATE)
        case Over() if event.status == "incomplete" and state.attempts.awaited():
            return _counted(state, attempt, event, Ignored.LATE)  # Its successor may still complete.
        case Running() | Over():
            return _over(state, attempt, event)
        case _:
            assert_never(attempt)


def _counted(state: Open, attempt: Over, event: AttemptSettled, why: Ignored) -> Step[JobState]:
    """The end no longer decides anything. Its usage is added to the attempt if that has none yet."""
    if attempt.usage is not None or event.usage is None:
        return Step(state, ignored=why)
    attempts = with_calls(state.spec, state.attempts.put(replace(attempt, usage=event.usage)), event.terms)
    return Step(replace(state, attempts=attempts))


def _booked(
    state: Open, event: AttemptAccepted | AttemptSettled, usage: Usage | None, why: Ignored
) -> Step[JobState]:  # fmt: skip
    """A response of no attempt of this job has ended: book its usage, once."""
    known = state.attempts.booked
    if usage is None or not usage.paid or len(known) >= RESPONSES_REMEMBERED_MAX:
        return Step(state, ignored=why)
    if event.response_id in known:
        return Step(state, ignored=Ignored.DUPLICATE)
    attempts = replace(state.attempts, booked=(*known, event.response_id))
    end = event.end if isinstance(event, AttemptAccepted) else event
    terms = None if end is None else end.terms
    attempts = with_second(state.spec, attempts, usage, terms)
    return Step(replace(state, attempts=attempts), (booked(event, state.spec.tenant, usage),))


def _over(state: Open, attempt: Running | Over, event: AttemptSettled) -> Step[JobState]:
    """An attempt has ended, or its response is missing or stuck."""
    over = Over(
        attempt.number, event.response_id, event.status, attempt.accepted_at_ms, attempt.adopted,
        code=event.code, usage=event.usage,
    )  # fmt: skip
    attempts = state.attempts.put(over)
    if over.usage is not None and not (isinstance(attempt, Over) and attempt.usage is not None):
        attempts = with_calls(state.spec, attempts, event.terms)
    if event.continuation_id is not None:
        attempts = replace(attempts, continuation_id=event.continuation_id)
    after = replace(state, attempts=attempts)
    reason = reason_of_end(event)
    match event.status:
        case "completed":
            return finish(after, event, "completed", None, event)
        case "incomplete":
            return finish(after, event, "incomplete", reason, event)
        case "cancelled" if attempts.hedge is not None and attempts.awaited():
            return _failed(after, event, "paid", "faulty", reason)
        case "cancelled":
            return finish(after, event, "cancelled", reason, event)
        case "failed":
            # A response whose id can't be used may run on, and what it uses is never known.
            paid = _tokens_used(event) or event.code == UNUSABLE_ID
            return _failed(after, event, "paid" if paid else "unpaid", event.cause or "faulty", reason)
        case "missing":
            return _released(_failed(after, event, "paid", event.cause or "faulty", reason), event)
        case "stuck":
            step = _failed(after, event, "paid", "faulty", reason)
            if isinstance(step.state, Finished):  # No retry is left, so the response keeps its chance to end.
                return Step(state, ignored=Ignored.STALE)
            return _released(step, event)
        case _:
            assert_never(event.status)


def _tokens_used(event: AttemptSettled) -> bool:
    """Whether the response used tokens; also where its object tells a part of the counts only."""
    told_in_part = event.terms is not None and event.terms.part_of_usage is True
    return told_in_part or (event.usage is not None and event.usage.paid)


def _failed(
    state: Open, event: AttemptSettled, spend: Spend, cause: Cause, reason: Reason
) -> Step[JobState]:  # fmt: skip
    counted = replace(state, attempts=state.attempts.count(event.attempt, spend, cause))
    if counted.attempts.awaited():
        return Step(counted)
    return again(counted, event, spend, cause, event.wait_ms, reason, event)


def _released(step: Step[JobState], event: AttemptSettled) -> Step[JobState]:
    return replace(step, outputs=(*step.outputs, release(event, event.response_id)))


def _timer(state: Open, event: JobTimerFired) -> Step[JobState]:
    deadline_ms = state.spec.deadline_at_ms
    if event.due_ms != due_ms(state) and event.due_ms < deadline_ms:
        return Step(state, ignored=Ignored.STALE)
    if max(event.due_ms, event.at_ms) >= deadline_ms:
        if isinstance(state, BackingOff) and state.last:
            return finish(state, event, "failed", state.why)
        return finish(state, event, "expired", reason_of_deadline(state))
    match state:
        case Waiting():
            return _turn(state, event)
        case BackingOff():
            request = state.spec.request
            if request is None:
                return finish(state, event, "failed", state.why)
            return begin(state, request, event)
        case Active():
            return _expired(state, event)
        case _:
            assert_never(state)


def _turn(state: Open, event: JobAdmitted | JobFoundTooLate | JobTimerFired) -> Step[JobState]:
    """A waiting job has its turn, or none any more. A grant that is written twice, or too late, changes nothing."""
    request, deadline_ms = state.spec.request, state.spec.deadline_at_ms
    if not isinstance(state, Waiting) or request is None or event.at_ms >= deadline_ms:
        return Step(state, ignored=Ignored.STALE)
    if isinstance(event, JobFoundTooLate):
        left_ms = deadline_ms - event.at_ms
        if left_ms >= event.needs_ms:  # Its deadline was extended meanwhile.
            return Step(state, ignored=Ignored.STALE)
        message = f"{left_ms} ms were left, and nine of ten runs of its model take {event.needs_ms} ms or more"
        return finish(state, event, "expired", Reason(code="would_not_finish", message=message))
    return begin(state, request, event)


def _expired(state: Active, event: JobTimerFired) -> Step[JobState]:
    """A report deadline or an adoption grace has passed."""
    attempts = state.attempts.expire(event.due_ms, event.at_ms + state.spec.policy.adoption_grace_ms)
    abandoned = [
        item
        for item in state.attempts.items
        if isinstance(item, OutcomeUnknown) and item.adopt_by_ms <= event.due_ms and not item.taken
    ]
    spend: Spend = "paid"
    for item in abandoned:
        spend = "doubtful" if item.answered else "paid"
        attempts = attempts.count(item.number, spend, "faulty")
    after = replace(state, attempts=attempts)
    if attempts.awaited() or not abandoned:
        return Step(after)
    reason = reason_of_unknown(item.said for item in abandoned if item.said)
    return again(after, event, spend, "faulty", 0, reason)
