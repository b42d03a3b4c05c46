"""Facts for the response's log about a poll's or cancel's outcome. Ids are derived from the command's."""

from dataclasses import dataclass

from schemas.base import Body, Usage
from schemas.commands import CancelResponse, RetrieveResponse
from schemas.jobs import AttemptEnd
from schemas.responses import PollFailed, ResponseObserved
from streams.policy.polls import NextPoll
from streams.provider import Missing, Seen

REASON_CHARS_MAX = 200

Command = RetrieveResponse | CancelResponse


@dataclass(frozen=True, slots=True)
class Others:
    """The process's observations of other responses, to judge whether a running response is stuck."""

    ended_at_ms: int | None = None
    typical_ms: int | None = None


ALONE = Others()


def _usage(seen: Seen) -> Usage | None:
    tokens = seen.usage
    if tokens is None:
        return None
    return Usage(
        input_tokens=tokens.input_tokens,
        output_tokens=tokens.output_tokens,
        total_tokens=tokens.total_tokens,
        cached_tokens=tokens.cached_tokens,
        reasoning_tokens=tokens.reasoning_tokens,
        cache_write_tokens=tokens.cache_write_tokens,
    )


def ended_at_create(seen: Seen, body: Body) -> AttemptEnd:
    """The end of an attempt whose create's answer contained the ended response; `seen` is over."""
    # mypy narrows only these comparisons.
    assert seen.outcome != "running" and seen.outcome != "odd", seen.outcome  # noqa: PLR1714, PT018
    return AttemptEnd(
        status=seen.outcome,
        cause=seen.cause,
        code=seen.code,
        message=seen.message,
        said_by=seen.said_by,
        wait_ms=seen.wait_ms,
        response=body,
        usage=_usage(seen),
        terms=seen.terms,
        continuation_id=seen.continuation_id,
        provider_created_at_ms=seen.created_at_ms,
        provider_ended_at_ms=seen.ended_at_ms,
    )


def observed(
    command: Command, seen: Seen, body: Body | None, *, at_ms: int, following: NextPoll, others: Others = ALONE
) -> ResponseObserved:
    """The response was observed as `seen`. `body` is the object, None while the response runs."""
    owner = seen.owner
    return ResponseObserved(
        id=f"{command.id}/observed",
        at_ms=at_ms,
        response_id=command.response_id,
        command_id=command.id,
        outcome=seen.outcome,
        raw_status=seen.raw_status,
        cause=seen.cause,
        code=seen.code,
        message=seen.message,
        said_by=seen.said_by,
        wait_ms=seen.wait_ms,
        continuation_id=seen.continuation_id,
        response=body,
        usage=_usage(seen),
        terms=seen.terms,
        job_id=owner.job_id if owner else None,
        attempt=owner.attempt if owner else None,
        tenant=owner.tenant if owner else None,
        provider_created_at_ms=seen.created_at_ms,
        provider_ended_at_ms=seen.ended_at_ms,
        next_poll_at_ms=following.at_ms,
        poll_basis=following.basis if seen.outcome == "running" else None,
        progress=seen.progress,
        others_ended_at_ms=others.ended_at_ms,
        typical_ms=others.typical_ms,
    )


def missing(
    command: Command, answer: Missing, *, at_ms: int, following: NextPoll, others: Others = ALONE
) -> ResponseObserved:  # fmt: skip
    """The provider answered 404: the response does not exist yet, or no longer. With a code: it refused the poll."""
    return ResponseObserved(
        id=f"{command.id}/observed",
        at_ms=at_ms,
        response_id=command.response_id,
        command_id=command.id,
        outcome="missing",
        code=answer.code,
        message=answer.message or None,
        others_ended_at_ms=others.ended_at_ms,
        next_poll_at_ms=following.at_ms,
        poll_basis=following.basis,
    )


def failed(command: Command, reason: str, *, at_ms: int, following: NextPoll) -> PollFailed:
    """No call of the command got a usable answer."""
    return PollFailed(
        id=f"{command.id}/failed",
        at_ms=at_ms,
        response_id=command.response_id,
        command_id=command.id,
        reason=reason[:REASON_CHARS_MAX],
        next_poll_at_ms=following.at_ms,
        poll_basis=following.basis,
    )
