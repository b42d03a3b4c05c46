"""Facts that the job fold makes about responses: claims, booked usage, and the end in a create's own answer. Pure."""

from typing import Any, Protocol

from schemas.base import Terms, Usage
from schemas.hedges import HedgeTerms
from schemas.jobs import AttemptAccepted, AttemptEnd, AttemptSettled, JobFact, JobPolicy, ResponseAdopted, UsageBooked
from schemas.responses import LAST_POLL_LEAD_MS, ResponseClaimed, ResponseReleased

LATE_MISSING_GRACE_MS = 60_000
"""How long a 404 of a late response still means "not yet". A finished job no longer has its policy."""


class Wanted(Protocol):
    """The fields of a job's spec that a claim reads."""

    @property
    def deadline_at_ms(self) -> int: ...
    @property
    def policy(self) -> JobPolicy: ...
    @property
    def include(self) -> tuple[str, ...]: ...


def claim_for(
    event: AttemptAccepted, spec: Wanted, *, released: bool = False, hedge: HedgeTerms | None = None
) -> ResponseClaimed:
    """Claim the response for an attempt of an open job. `released`: the job does not wait for this response."""
    policy = spec.policy
    return _claimed(
        event,
        last_poll_at_ms=max(0, spec.deadline_at_ms - LAST_POLL_LEAD_MS),
        missing_grace_ms=policy.missing_grace_ms,
        missing_patience_ms=policy.missing_patience_ms,
        stuck_after_ms=policy.stuck_after_ms,
        stuck_factor=policy.stuck_factor,
        include=spec.include or None,
        forget_after_ms=policy.forget_after_ms,
        released=True if released else None,
        hedge=hedge,
    )


def claim_of_adopted(event: ResponseAdopted) -> ResponseClaimed:
    """Claim a response that an application created. The response fold refuses if it belongs to another job."""
    return ResponseClaimed(
        id=f"{event.response_id}/claimed/{event.job_id}",
        at_ms=event.at_ms,
        response_id=event.response_id,
        job_id=event.job_id,
        attempt=1,
        tenant=event.tenant,
        poll_at_ms=event.poll_at_ms,
        last_poll_at_ms=max(0, event.deadline_at_ms - LAST_POLL_LEAD_MS),
        missing_grace_ms=event.policy.missing_grace_ms,
        missing_patience_ms=event.policy.missing_patience_ms,
        include=event.include,
        forget_after_ms=event.policy.forget_after_ms,
        made_elsewhere=True,
    )


def claim_of_latecomer(event: AttemptAccepted, forget_after_ms: int) -> ResponseClaimed:
    """Claim a response that turned up after its job's end, as released."""
    return _claimed(
        event,
        last_poll_at_ms=event.poll_at_ms,
        missing_grace_ms=LATE_MISSING_GRACE_MS,
        forget_after_ms=forget_after_ms,
        released=True,
    )


def _claimed(event: AttemptAccepted, **terms: Any) -> ResponseClaimed:
    """The claim with the fields of `event`; `terms` are the fields about polling and patience."""
    return ResponseClaimed(
        id=f"{event.response_id}/claimed",
        at_ms=event.at_ms,
        response_id=event.response_id,
        job_id=event.job_id,
        attempt=event.attempt,
        tenant=event.tenant,
        poll_at_ms=event.poll_at_ms,
        latency_class=event.latency_class,
        control=event.control,
        stream=event.stream,
        **terms,
    )


def booked(event: AttemptAccepted | AttemptSettled, tenant: str, usage: Usage) -> UsageBooked:
    """The usage of a response that is in no result."""
    return UsageBooked(
        id=f"{event.response_id}/usage",
        at_ms=event.at_ms,
        job_id=event.job_id,
        tenant=tenant,
        attempt=event.attempt,
        response_id=event.response_id,
        usage=usage,
        terms=_terms(event),
    )


def _terms(event: AttemptAccepted | AttemptSettled) -> Terms | None:
    if isinstance(event, AttemptSettled):
        return event.terms
    return event.end.terms if event.end is not None else None


def settled_at_once(event: AttemptAccepted, end: AttemptEnd) -> AttemptSettled:
    """The end from the create's own answer, as the fact that settles the attempt."""
    return AttemptSettled(
        id=f"{event.response_id}/settled",
        at_ms=event.at_ms,
        job_id=event.job_id,
        attempt=event.attempt,
        response_id=event.response_id,
        status=end.status,
        cause=end.cause,
        code=end.code,
        message=end.message,
        said_by=end.said_by,
        wait_ms=end.wait_ms,
        response=end.response,
        usage=end.usage,
        terms=end.terms,
        continuation_id=end.continuation_id,
        found_by="create",
        polls=0,
        provider_created_at_ms=end.provider_created_at_ms,
        provider_ended_at_ms=end.provider_ended_at_ms,
    )


def release(event: JobFact, response_id: str) -> ResponseReleased:
    """The job needs the response no more."""
    return ResponseReleased(
        id=f"{response_id}/released", at_ms=event.at_ms, response_id=response_id, job_id=event.job_id
    )  # fmt: skip
