"""Facts that the response fold makes for the job fold: offers, ends, and refused adoptions. Pure."""

from schemas.base import Cause, FoundBy
from schemas.jobs import AdoptionRefused, AttemptAccepted, AttemptSettled
from schemas.responses import ResponseClaimed, ResponseObserved
from schemas.statuses import GIVEN_UP_STATUSES, SettledStatus
from streams.fold.response_states import RunningResponse


def offered(event: ResponseObserved, job_id: str, attempt: int, tenant: str) -> AttemptAccepted:
    """Offer a response to the job that its metadata name. The job fold checks job, tenant and attempt."""
    return AttemptAccepted(
        id=f"{job_id}/{attempt}/accepted/{event.response_id}",
        at_ms=event.at_ms,
        job_id=job_id,
        attempt=attempt,
        tenant=tenant,
        response_id=event.response_id,
        status=event.raw_status or event.outcome,
        adopted=True,
        poll_at_ms=event.next_poll_at_ms,
    )


def adoption_refused(
    event: ResponseClaimed | ResponseObserved, job_id: str, tenant: str, owner_job_id: str, owner_tenant: str
) -> AdoptionRefused:
    """Tell the adopting job that the response belongs to another job, named only if that is the same tenant's."""
    own = owner_job_id.removeprefix(f"{tenant}:")
    whose = f"It belongs to the job {own}." if owner_tenant == tenant else "It can't be adopted: it belongs to a job."
    return AdoptionRefused(
        id=f"{event.response_id}/refused/{job_id}",
        at_ms=event.at_ms,
        job_id=job_id,
        response_id=event.response_id,
        message=whose,
    )


def told(state: RunningResponse, event: ResponseObserved, status: SettledStatus) -> AttemptSettled:
    """Tell the job fold of the end of a response, or that the response is missing or stuck.

    The id is derived from the response: one fact per response for `missing`, `stuck` and the end each.
    """
    found_by: FoundBy = "webhook" if state.webhooks.ids else "poll"
    code, message = event.code, event.message
    said_by = event.said_by
    if status in GIVEN_UP_STATUSES:
        code, message, said_by = f"response_{status}", _without_end(state, event, status), "backstop"
    elif event.outcome == "odd" and code is None:
        code, said_by = "unknown_status", "backstop"
        message = f"its status is {event.raw_status!r}, which this release does not know"
    name = "settled" if status != state.sight.told else status
    return AttemptSettled(
        id=f"{event.response_id}/{name}" + (f"/{state.claim.job_id}" if state.claim.made_elsewhere else ""),
        at_ms=event.at_ms,
        job_id=state.claim.job_id,
        attempt=state.claim.attempt,
        response_id=event.response_id,
        status=status,
        cause=_cause(state, event, status),
        code=code,
        message=message,
        said_by=said_by,
        wait_ms=event.wait_ms,
        response=event.response,
        usage=event.usage,
        terms=event.terms,
        continuation_id=event.continuation_id,
        found_by=found_by,
        polls=state.polls,
        webhook_at_ms=state.webhooks.first_at_ms,
        provider_created_at_ms=event.provider_created_at_ms,
        provider_ended_at_ms=event.provider_ended_at_ms or state.webhooks.ended_at_ms,
    )


def _cause(state: RunningResponse, event: ResponseObserved, status: SettledStatus) -> Cause | None:
    """Of a response that is given up. Where polls of it are refused and none was ever answered, another attempt would
    be paid and not seen either.
    """
    if status not in GIVEN_UP_STATUSES:
        return event.cause
    return "never" if event.code is not None and state.sight.status is None else "faulty"


def _without_end(state: RunningResponse, event: ResponseObserved, status: SettledStatus) -> str | None:
    sight = state.sight
    if status == "stuck" and sight.since_ms is not None:
        return f"it stood at {sight.status!r} for {event.at_ms - sight.since_ms} ms"
    if event.code is not None and sight.refused_since_ms is not None:
        spent_ms = event.at_ms - sight.refused_since_ms
        return f"its polls were refused for {spent_ms} ms: {event.code} {event.message or ''}".rstrip()
    if sight.missing_since_ms is not None:
        return f"it was answered with 404 for {event.at_ms - sight.missing_since_ms} ms"
    return None
