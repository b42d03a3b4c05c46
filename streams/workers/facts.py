"""What a look brought, as facts for the response's log. Ids are derived from the command: a repeat has the same."""

from schemas.base import Body, Usage
from schemas.commands import CancelResponse, RetrieveResponse
from schemas.responses import LookFailed, ResponseObserved
from streams.policy.observations import Seen

REASON_CHARS_MAX = 200

Command = RetrieveResponse | CancelResponse


def observed(command: Command, seen: Seen, body: Body | None, *, at_ms: int, next_look_at_ms: int) -> ResponseObserved:
    """The response stands as `seen`; `body` is the object itself, kept only where it has ended."""
    owner, usage = seen.owner, seen.usage
    return ResponseObserved(
        id=f"{command.id}/observed",
        at_ms=at_ms,
        response_id=command.response_id,
        command_id=command.id,
        outcome=seen.outcome,
        raw_status=seen.raw_status,
        blame=seen.blame,
        code=seen.code,
        message=seen.message,
        response=body,
        usage=Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            total_tokens=usage.total_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
        )
        if usage
        else None,
        job_id=owner.job_id if owner else None,
        attempt=owner.attempt if owner else None,
        tenant=owner.tenant if owner else None,
        provider_created_at_ms=seen.created_at_ms,
        provider_ended_at_ms=seen.ended_at_ms,
        next_look_at_ms=next_look_at_ms,
    )


def missing(command: Command, *, at_ms: int, next_look_at_ms: int) -> ResponseObserved:
    """A 404: not yet, or no more."""
    return ResponseObserved(
        id=f"{command.id}/observed",
        at_ms=at_ms,
        response_id=command.response_id,
        command_id=command.id,
        outcome="missing",
        next_look_at_ms=next_look_at_ms,
    )


def failed(command: Command, reason: str, *, at_ms: int, next_look_at_ms: int) -> LookFailed:
    """No usable answer came, repeats included."""
    return LookFailed(
        id=f"{command.id}/failed",
        at_ms=at_ms,
        response_id=command.response_id,
        command_id=command.id,
        reason=reason[:REASON_CHARS_MAX],
        next_look_at_ms=next_look_at_ms,
    )
