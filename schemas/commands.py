"""Requests for one call to OpenAI each: what the folds ask of the submitter and of the caller."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter

from schemas.base import Body, JobId, JobMessage, ResponseMessage, SpanMs, TenantId, UnixMs

CREATE_TIMEOUT_MS_UNSTAMPED = 45_000
"""Of a create whose job was submitted before jobs carried this time: the default of those releases."""


class CreateResponse(JobMessage):
    """Create this attempt: at most once, and not after `not_after_ms`."""

    topic: ClassVar[str] = "submissions"
    type: Literal["create_response"] = "create_response"
    attempt: int = Field(ge=1)
    tenant: TenantId
    model: str
    request: Body
    not_after_ms: UnixMs
    timeout_ms: SpanMs | None = None
    """Time of the call, over all its parts, as the job's policy has it: the job waits for the report of this attempt for longer.
    Absent: `CREATE_TIMEOUT_MS_UNSTAMPED`."""
    soonest: Literal[True] | None = None
    """Not in the completion window that the request asks for: it would end after the deadline."""
    continuation_id: str | None = None
    """Continue the completion window of an earlier attempt."""


PollReason = Literal["webhook", "timer", "claim", "adoption"]


class RetrieveResponse(ResponseMessage):
    topic: ClassVar[str] = "polls"
    type: Literal["retrieve_response"] = "retrieve_response"
    reason: PollReason
    job_id: JobId | None = None
    """As of `CancelResponse`."""
    attempt: int | None = None
    include: tuple[str, ...] | None = None
    """What the create asked to be included in the object."""
    accepted_at_ms: UnixMs | None = None
    """When the response was accepted (or first heard of): the age that the look policy reckons with."""
    polls: int = 0


class CancelResponse(ResponseMessage):
    topic: ClassVar[str] = "polls"
    type: Literal["cancel_response"] = "cancel_response"
    job_id: JobId | None = None
    """Whom its metadata must name, where they name anybody; None where any answer is to be taken."""


SUBMISSION: TypeAdapter[CreateResponse] = TypeAdapter(CreateResponse)
PollCommand = Annotated[RetrieveResponse | CancelResponse, Field(discriminator="type")]
POLL_COMMAND: TypeAdapter[RetrieveResponse | CancelResponse] = TypeAdapter(PollCommand)
