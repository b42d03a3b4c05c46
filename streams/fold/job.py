"""The life of a job.

Rules, before the code:
- A job ends once, with one result: at its first completed attempt in log order, at its deadline, at a cancel, at an answer that
  no repeat can mend, or when its retries are used up. Whatever comes after the end is late: a response that still turns up is
  claimed (so that it is watched to its end) and cancelled.
- An attempt is *submitting* (the command is out) until word comes: accepted, rejected, or unknown. No word by `word_by_ms` is
  unknown too. An *unheard* attempt is left for a webhook to bring back; then it counts as *lost*, and a retry is granted. A
  lost one may still be adopted: then it runs beside its successor, the first to complete wins and the other is cancelled.
- A new attempt begins only when no other is submitting, unheard or running.
- Retries (they spend tokens) and rejections (they do not) are counted apart: `streams.policy.retry`.
"""

from dataclasses import dataclass, replace
from typing import Literal, assert_never

from schemas.base import Body, Message
from schemas.commands import CancelResponse, CreateResponse
from schemas.jobs import (
    AttemptAccepted,
    AttemptRejected,
    AttemptSettled,
    AttemptUnknown,
    CancelRequested,
    JobFact,
    JobPolicy,
    JobRefused,
    JobSubmitted,
    JobTimerFired,
)
from schemas.responses import LAST_LOOK_LEAD_MS, ResponseClaimed
from schemas.results import JobOutcome, Reason
from streams.fold.attempts import Attempts, Lost, Over, Running, Submitting, Unheard
from streams.fold.result import make_result
from streams.fold.step import Ignored, Step
from streams.policy.retry import GiveUp, Retry, RetryDecision, after_rejection, after_spend

RESPONSES_REMEMBERED_MAX = 32
"""Responses that a finished job remembers. An honest job has at most 1 + its retries; past this it is a flood, and is left alone."""

LATE_MISSING_GRACE_MS = 60_000
"""How long a 404 of a latecomer still means "not yet"; its job's policy is no longer kept."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What was asked for; it never changes."""

    tenant: str
    model: str
    request: Body
    request_sha256: str
    submitted_at_ms: int
    deadline_at_ms: int
    policy: JobPolicy
    session_id: str | None
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Absent:
    kind: Literal["absent"] = "absent"


@dataclass(frozen=True, slots=True)
class Active:
    """At least one attempt is submitting, unheard or running."""

    spec: Spec
    attempts: Attempts
    kind: Literal["active"] = "active"


@dataclass(frozen=True, slots=True)
class BackingOff:
    """No attempt is live; the next one begins at `retry_at_ms`."""

    spec: Spec
    attempts: Attempts
    retry_at_ms: int
    why: Reason
    kind: Literal["backing_off"] = "backing_off"


@dataclass(frozen=True, slots=True)
class Finished:
    """The result is published; remembered until `forget_at_ms`, so that a repeat is known and a latecomer is cancelled."""

    tenant: str
    request_sha256: str
    outcome: JobOutcome
    finished_at_ms: int
    forget_at_ms: int
    response_ids: tuple[str, ...]
    """Responses that were claimed for it: a further one is a latecomer."""
    kind: Literal["finished"] = "finished"


JobState = Absent | Active | BackingOff | Finished
Status = Literal["absent", "submitting", "running", "unknown", "backing_off", "finished"]


def status(state: JobState) -> Status:
    """One word for people and lists."""
    match state:
        case Absent():
            return "absent"
        case Active():
            return state.attempts.status()
        case BackingOff():
            return "backing_off"
        case Finished():
            return "finished"
        case _:
            assert_never(state)


def due_ms(state: JobState) -> int | None:
    """When the scheduler is to write the next `JobTimerFired`; None only where there is no row."""
    match state:
        case Absent():
            return None
        case Active():
            return min((*state.attempts.dues_ms(), state.spec.deadline_at_ms))
        case BackingOff():
            return min(state.retry_at_ms, state.spec.deadline_at_ms)
        case Finished():
            return state.forget_at_ms
        case _:
            assert_never(state)


def step(state: JobState, event: JobFact) -> Step[JobState]:
    """Fold one fact of a job. Total: what no longer matters is a no-op that says so."""
    match state:
        case Absent():
            return _begin(state, event)
        case Active() | BackingOff():
            return _advance(state, event)
        case Finished():
            return _remember(state, event)
        case _:
            assert_never(state)


def _begin(state: Absent, event: JobFact) -> Step[JobState]:
    match event:
        case JobSubmitted():
            spec = Spec(
                tenant=event.tenant,
                model=event.model,
                request=event.request,
                request_sha256=event.request_sha256,
                submitted_at_ms=event.at_ms,
                deadline_at_ms=event.deadline_at_ms,
                policy=event.policy,
                session_id=event.session_id,
                tags=event.tags,
            )
            return _attempt(spec, Attempts(), event)
        case JobRefused():
            finished = Finished(event.tenant, "", "rejected", event.at_ms, event.at_ms + event.forget_after_ms, ())
            reason = Reason(code=event.code, message=event.message)
            return Step(finished, (make_result(event, Attempts(), "rejected", reason, tenant=event.tenant),))
        case _:
            return Step(state, ignored=Ignored.UNKNOWN_KEY)


def _advance(state: Active | BackingOff, event: JobFact) -> Step[JobState]:
    match event:
        case JobSubmitted():
            same = event.request_sha256 == state.spec.request_sha256 and event.tenant == state.spec.tenant
            return Step(state, ignored=Ignored.DUPLICATE if same else Ignored.CONFLICT)
        case JobRefused():
            return Step(state, ignored=Ignored.CONFLICT)
        case CancelRequested():
            if event.tenant != state.spec.tenant:
                return Step(state, ignored=Ignored.CONFLICT)
            reason = Reason(code="cancel_requested", message=event.reason or "cancelled by its submitter")
            return _finish(state, event, "cancelled", reason)
        case AttemptAccepted():
            return _accepted(state, event)
        case AttemptRejected():
            return _rejected(state, event)
        case AttemptUnknown():
            return _unheard(state, event)
        case AttemptSettled():
            return _settled(state, event)
        case JobTimerFired():
            return _timer(state, event)
        case _:
            assert_never(event)


def _attempt(spec: Spec, attempts: Attempts, event: JobFact) -> Step[JobState]:
    """Begin the next attempt: the command is derived from the event, so that a repeat of it is the same command."""
    number = attempts.last_number + 1
    submitting = Submitting(number, event.at_ms, event.at_ms + spec.policy.word_timeout_ms)
    command = CreateResponse(
        id=f"{event.job_id}/{number}/create",
        at_ms=event.at_ms,
        job_id=event.job_id,
        attempt=number,
        tenant=spec.tenant,
        model=spec.model,
        request=spec.request,
        not_after_ms=min(event.at_ms + spec.policy.command_valid_ms, spec.deadline_at_ms),
    )
    return Step(Active(spec, attempts.begin(submitting)), (command,))


def _accepted(state: Active | BackingOff, event: AttemptAccepted) -> Step[JobState]:
    if event.tenant != state.spec.tenant:
        return Step(state, ignored=Ignored.IMPOSSIBLE)
    known = state.attempts.of_response(event.response_id)
    if known is not None:
        return Step(state, ignored=Ignored.DUPLICATE)
    attempt = state.attempts.get(event.attempt)
    match attempt:
        case Submitting() | Unheard() | Lost():
            running = Running(event.attempt, event.response_id, event.at_ms, event.adopted)
            return Step(Active(state.spec, state.attempts.put(running)), (_claim(event, state.spec),))
        case None if event.attempt > state.attempts.last_number:
            return Step(state, ignored=Ignored.IMPOSSIBLE)
        case None | Running() | Over():
            # A second response of one attempt, or one of an attempt that was refused: nobody waits for it. Watch it, stop it.
            return Step(state, (_claim(event, state.spec), _cancel(event, event.response_id)))
        case _:
            assert_never(attempt)


def _rejected(state: Active | BackingOff, event: AttemptRejected) -> Step[JobState]:
    attempt = state.attempts.get(event.attempt)
    if not isinstance(attempt, Submitting | Unheard | Lost):
        return Step(state, ignored=Ignored.STALE)
    attempts = state.attempts.reject(event.attempt)
    reason = Reason(code=event.code, message=event.message)
    if isinstance(attempt, Lost) or attempts.live():
        # Its successor is under way, or waits for its turn: only the count changes.
        return Step(replace(state, attempts=attempts))
    if event.blame == "never":
        return _finish(replace(state, attempts=attempts), event, "failed", reason)
    decision = after_rejection(state.spec.policy, event.job_id, event.at_ms, attempts.rejections, event.wait_ms)
    return _decided(replace(state, attempts=attempts), event, decision, reason)


def _unheard(state: Active | BackingOff, event: AttemptUnknown) -> Step[JobState]:
    attempt = state.attempts.get(event.attempt)
    if not isinstance(attempt, Submitting):
        return Step(state, ignored=Ignored.STALE)
    unheard = Unheard(attempt.number, event.at_ms + state.spec.policy.adoption_grace_ms)
    return Step(Active(state.spec, state.attempts.put(unheard)))


def _settled(state: Active | BackingOff, event: AttemptSettled) -> Step[JobState]:
    attempt = state.attempts.of_response(event.response_id)
    if attempt is None:
        return Step(state, ignored=Ignored.UNKNOWN_KEY)
    if isinstance(attempt, Over):
        return Step(state, ignored=Ignored.DUPLICATE)
    over = Over(attempt.number, event.response_id, event.status, attempt.accepted_at_ms, attempt.adopted)
    after = replace(state, attempts=state.attempts.put(over))
    reason = Reason(code=event.code or event.status, message=event.message or "")
    match event.status:
        case "completed":
            return _finish(after, event, "completed", None)
        case "incomplete":
            return _finish(after, event, "incomplete", reason)
        case "cancelled":
            return _finish(after, event, "cancelled", reason)
        case "failed" if event.blame == "never":
            return _finish(after, event, "failed", reason)
        case "failed" | "missing":
            if after.attempts.live():
                return Step(after)
            return _retry_spent(after, event, reason)
        case _:
            assert_never(event.status)


def _timer(state: Active | BackingOff, event: JobTimerFired) -> Step[JobState]:
    if event.due_ms != due_ms(state):
        return Step(state, ignored=Ignored.STALE)
    if event.due_ms >= state.spec.deadline_at_ms:
        waited_ms = state.spec.deadline_at_ms - state.spec.submitted_at_ms
        reason = Reason(code="deadline", message=f"not ended {waited_ms} ms after its submission")
        return _finish(state, event, "expired", reason)
    match state:
        case BackingOff():
            return _attempt(state.spec, state.attempts, event)
        case Active():
            attempts = state.attempts.expire(event.due_ms, event.at_ms + state.spec.policy.adoption_grace_ms)
            after = replace(state, attempts=attempts)
            if attempts.live():
                return Step(after)
            reason = Reason(code="unknown_outcome", message="the create was sent and nobody heard of it again")
            return _retry_spent(after, event, reason)
        case _:
            assert_never(state)


def _retry_spent(state: Active | BackingOff, event: JobFact, reason: Reason) -> Step[JobState]:
    """The last live attempt is over, or lost, and may have cost tokens."""
    decision = after_spend(state.spec.policy, event.job_id, event.at_ms, state.attempts.retries)
    if isinstance(decision, Retry):
        state = replace(state, attempts=state.attempts.count_retry())
    return _decided(state, event, decision, reason)


def _decided(state: Active | BackingOff, event: JobFact, decision: RetryDecision, reason: Reason) -> Step[JobState]:
    match decision:
        case Retry():
            return Step(BackingOff(state.spec, state.attempts, decision.at_ms, reason))
        case GiveUp():
            given_up = Reason(code=reason.code, message=f"{reason.message} ({decision.why})".strip())
            return _finish(state, event, "failed", given_up)
        case _:
            assert_never(decision)


def _finish(
    state: Active | BackingOff, event: JobFact, outcome: JobOutcome, reason: Reason | None
) -> Step[JobState]:  # fmt: skip
    """The one place where an open job ends: its result, and a cancel for each response that still runs."""
    spec, attempts = state.spec, state.attempts
    finished = Finished(
        tenant=spec.tenant,
        request_sha256=spec.request_sha256,
        outcome=outcome,
        finished_at_ms=event.at_ms,
        forget_at_ms=event.at_ms + spec.policy.forget_after_ms,
        response_ids=attempts.response_ids(),
    )
    result = make_result(
        event, attempts, outcome, reason, tenant=spec.tenant, model=spec.model, submitted_at_ms=spec.submitted_at_ms,
        session_id=spec.session_id, tags=spec.tags,
    )  # fmt: skip
    cancels = tuple(_cancel(event, attempt.response_id) for attempt in attempts.running())
    return Step(finished, (result, *cancels))


def _remember(state: Finished, event: JobFact) -> Step[JobState]:
    match event:
        case JobSubmitted():
            same = event.request_sha256 == state.request_sha256 and event.tenant == state.tenant
            return Step(state, ignored=Ignored.DUPLICATE if same else Ignored.CONFLICT)
        case AttemptAccepted():
            return _latecomer(state, event)
        case JobTimerFired():
            if event.due_ms != state.forget_at_ms:
                return Step(state, ignored=Ignored.STALE)
            return Step(Absent())
        case JobRefused() | CancelRequested() | AttemptRejected() | AttemptUnknown() | AttemptSettled():
            return Step(state, ignored=Ignored.LATE)
        case _:
            assert_never(event)


def _latecomer(state: Finished, event: AttemptAccepted) -> Step[JobState]:
    """A response of ours that turned up after the end: stop it, it costs money; and claim it, so that it is watched to its end."""
    if event.tenant != state.tenant:
        return Step(state, ignored=Ignored.IMPOSSIBLE)
    if event.response_id in state.response_ids or len(state.response_ids) >= RESPONSES_REMEMBERED_MAX:
        return Step(state, ignored=Ignored.LATE)
    remembered = replace(state, response_ids=(*state.response_ids, event.response_id))
    claim = _claimed(event, event.look_at_ms, LATE_MISSING_GRACE_MS, state.forget_at_ms - state.finished_at_ms)
    return Step(remembered, (claim, _cancel(event, event.response_id)))


def _claim(event: AttemptAccepted, spec: Spec) -> ResponseClaimed:
    last_look_at_ms = max(0, spec.deadline_at_ms - LAST_LOOK_LEAD_MS)
    return _claimed(event, last_look_at_ms, spec.policy.missing_grace_ms, spec.policy.forget_after_ms)


def _claimed(
    event: AttemptAccepted, last_look_at_ms: int, missing_grace_ms: int, forget_after_ms: int
) -> ResponseClaimed:
    return ResponseClaimed(
        id=f"{event.response_id}/claimed",
        at_ms=event.at_ms,
        response_id=event.response_id,
        job_id=event.job_id,
        attempt=event.attempt,
        tenant=event.tenant,
        look_at_ms=event.look_at_ms,
        last_look_at_ms=last_look_at_ms,
        missing_grace_ms=missing_grace_ms,
        forget_after_ms=forget_after_ms,
        stream=event.stream,
    )


def _cancel(event: JobFact, response_id: str) -> Message:
    return CancelResponse(
        id=f"{response_id}/cancel", at_ms=event.at_ms, response_id=response_id, job_id=event.job_id
    )  # fmt: skip
