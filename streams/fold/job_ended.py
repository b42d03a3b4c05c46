"""Facts of a finished job: repeats are recognised, late responses are cancelled, and their usage is booked. Pure."""

from dataclasses import replace
from typing import assert_never

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
from schemas.statuses import JobOutcome
from streams.fold.claims import booked, claim_of_latecomer
from streams.fold.job_states import Absent, Finished, JobState, Open
from streams.fold.step import Ignored, Step

RESPONSES_REMEMBERED_MAX = 32
"""Responses that a finished job remembers. A job has normally at most 1 + its retries. Beyond this limit responses are
ignored, as they may be a flood."""


def finished(state: Open, event: JobFact, outcome: JobOutcome) -> Finished:
    """What is kept of a job that `event` ends."""
    spec, attempts = state.spec, state.attempts
    return Finished(
        tenant=spec.tenant,
        request_sha256=spec.request_sha256,
        outcome=outcome,
        finished_at_ms=event.at_ms,
        forget_at_ms=event.at_ms + spec.policy.forget_after_ms,
        response_ids=(*attempts.booked, *attempts.response_ids())[-RESPONSES_REMEMBERED_MAX:],
        uncounted=attempts.uncounted()[-RESPONSES_REMEMBERED_MAX:],
    )


def after_end(state: Finished, event: JobFact) -> Step[JobState]:
    """Fold one fact of a finished job."""
    match event:
        case JobSubmitted() | ResponseAdopted():
            same = event.request_sha256 == state.request_sha256 and event.tenant == state.tenant
            return Step(state, ignored=Ignored.DUPLICATE if same else Ignored.CONFLICT)
        case AttemptAccepted():
            return _latecomer(state, event)
        case JobTimerFired():
            if event.due_ms != state.forget_at_ms:
                return Step(state, ignored=Ignored.STALE)
            return Step(Absent())
        case AttemptSettled():
            return _settled_late(state, event)
        case UsageBooked():
            return Step(state, ignored=Ignored.DUPLICATE)
        case JobAdmitted() | JobFoundTooLate() | FallbackTaken() | HedgePermitted() | JobChanged() | JobErased():
            return Step(state, ignored=Ignored.LATE)
        case JobRefused() | AdoptionRefused() | CancelRequested() | AttemptRejected() | AttemptUnknown():
            return Step(state, ignored=Ignored.LATE)
        case _:
            assert_never(event)


def _latecomer(state: Finished, event: AttemptAccepted) -> Step[JobState]:
    """A response of this job turned up after the job's end. It costs money, so it is claimed as released, to be
    cancelled.

    If it has ended already, only its usage is booked.
    """
    if event.tenant != state.tenant:
        return Step(state, ignored=Ignored.IMPOSSIBLE)
    if event.response_id in state.response_ids or len(state.response_ids) >= RESPONSES_REMEMBERED_MAX:
        return Step(state, ignored=Ignored.LATE)
    remembered = replace(state, response_ids=(*state.response_ids, event.response_id))
    if event.end is not None:
        if event.end.usage is None or not event.end.usage.paid:
            return Step(state, ignored=Ignored.LATE)
        return Step(remembered, (booked(event, state.tenant, event.end.usage),))
    remembered = replace(remembered, uncounted=(*state.uncounted, event.response_id))
    return Step(remembered, (claim_of_latecomer(event, state.forget_at_ms - state.finished_at_ms),))


def _settled_late(state: Finished, event: AttemptSettled) -> Step[JobState]:
    """A response ended after its job. Its usage is booked, once."""
    known = event.response_id in state.response_ids
    done = event.response_id not in state.uncounted if known else len(state.response_ids) >= RESPONSES_REMEMBERED_MAX
    if done or event.usage is None or not event.usage.paid:
        return Step(state, ignored=Ignored.LATE)
    seen = state.response_ids if known else (*state.response_ids, event.response_id)
    uncounted = tuple(response_id for response_id in state.uncounted if response_id != event.response_id)
    after = replace(state, response_ids=seen, uncounted=uncounted)
    return Step(after, (booked(event, state.tenant, event.usage),))
