"""The commands of a response, and when it is polled at the latest. Pure."""

from schemas.base import Message
from schemas.commands import CancelResponse, PollReason, RetrieveResponse
from schemas.responses import ResponseClaimed, ResponseReleased, ResponseTimerFired, WebhookReceived
from streams.fold.response_states import ResponseClaim, RunningResponse


def poll_of(state: RunningResponse, event: Message, reason: PollReason) -> RetrieveResponse:
    assert isinstance(event, WebhookReceived | ResponseClaimed | ResponseTimerFired)
    return RetrieveResponse(
        id=f"{event.id}/poll",
        at_ms=event.at_ms,
        response_id=event.response_id,
        reason=reason,
        job_id=_named(state.claim),
        attempt=state.claim.attempt,
        include=state.claim.include or None,
        accepted_at_ms=state.claim.claimed_at_ms,
        polls=state.polls,
        latency_class=state.claim.latency_class or None,
        control=True if state.claim.control else None,
    )


def cancel_of(
    state: RunningResponse, event: ResponseReleased | ResponseClaimed | ResponseTimerFired, command_id: str
) -> CancelResponse:
    return CancelResponse(
        id=command_id, at_ms=event.at_ms, response_id=event.response_id, job_id=_named(state.claim)
    )  # fmt: skip


def _named(claim: ResponseClaim) -> str | None:
    """The job that the metadata must name. None for a response made elsewhere: any answer shows its owner."""
    return None if claim.made_elsewhere else claim.job_id


def bounded(claim: ResponseClaim, poll_at_ms: int, now_ms: int) -> int:
    """The time of a poll, but not after the last poll before the deadline, unless that time has passed."""
    if poll_at_ms > claim.last_poll_at_ms > now_ms:
        return claim.last_poll_at_ms
    return poll_at_ms
