"""Commands of the folds to the submitter and the poller. Each asks for one call to the provider."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter

from schemas.base import Body, Int64, JobId, JobMessage, LatencyClass, ResponseMessage, SpanMs, TenantId, UnixMs
from schemas.fallbacks import Fallback
from schemas.traces import Traceparent

CREATE_TIMEOUT_MS_UNSTAMPED = 45_000
"""Time limit of a create whose job is older than the field `timeout_ms`: the default of those releases."""


class CreateResponse(JobMessage):
    """Create this attempt, at most once, and not after `not_after_ms`."""

    topic: ClassVar[str] = "submissions"
    type: Literal["create_response"] = "create_response"
    attempt: Int64 = Field(ge=1)
    tenant: TenantId
    model: str
    tags: tuple[str, ...] | None = None
    """Of the job; absent for none. An operator may have paused creates with a tag."""
    request: Body
    not_after_ms: UnixMs
    timeout_ms: SpanMs | None = None
    """Time limit of the call as a whole, from the job's policy. The job's report deadline is later.
    Absent: `CREATE_TIMEOUT_MS_UNSTAMPED`."""
    soonest: Literal[True] | None = None
    """Don't ask for the completion window of the request: it would end after the deadline."""
    continuation_id: str | None = None
    """Continue the completion window of an earlier attempt."""
    instead: Fallback | None = None
    """Ask for this instead of what the request says: the job has taken a fallback. `model` is that of it."""
    hedge: Literal[True] | None = None
    """The attempt may be hedged, so its acceptance says when to ask for that."""
    traceparent: Traceparent | None = None
    """Of the attempt's span, for the provider's request. Absent where the submission had none."""
    beside_grant: Literal[True] | None = None
    """Written together with its job's `JobAdmitted`, not after it: to be performed only by the process that wrote both
    and knows that the grant is in the log and begins this attempt."""

    @property
    def answer_within_ms(self) -> int:
        return CREATE_TIMEOUT_MS_UNSTAMPED if self.timeout_ms is None else self.timeout_ms


PollReason = Literal["webhook", "timer", "claim", "adoption"]


class RetrieveResponse(ResponseMessage):
    topic: ClassVar[str] = "polls"
    type: Literal["retrieve_response"] = "retrieve_response"
    reason: PollReason
    job_id: JobId | None = None
    """As in `CancelResponse`."""
    attempt: Int64 | None = None
    include: tuple[str, ...] | None = None
    """`include` of the create."""
    accepted_at_ms: UnixMs | None = None
    """When the response was accepted or first seen. The poll policy computes the age from it."""
    polls: Int64 = 0
    latency_class: LatencyClass | None = None
    """The poll policy knows the run times of this class."""
    control: Literal[True] | None = None
    """The next poll comes as if no webhook came."""


class CancelResponse(ResponseMessage):
    topic: ClassVar[str] = "polls"
    type: Literal["cancel_response"] = "cancel_response"
    job_id: JobId | None = None
    """The job that the object's metadata must name, if they name one. None: any answer is taken."""


SUBMISSION: TypeAdapter[CreateResponse] = TypeAdapter(CreateResponse)
PollCommand = Annotated[RetrieveResponse | CancelResponse, Field(discriminator="type")]
POLL_COMMAND: TypeAdapter[RetrieveResponse | CancelResponse] = TypeAdapter(PollCommand)
