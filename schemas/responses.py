"""The facts of a response: the union of the records on the log `responses`, keyed by response id."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter, model_validator

from schemas.base import (
    Body,
    Cause,
    Int64,
    JobId,
    LatencyClass,
    PollBasis,
    ResponseMessage,
    SpanMs,
    TenantId,
    Terms,
    UnixMs,
    Usage,
    cause_of_older,
)
from schemas.hedges import HedgePermit, HedgeTerms
from schemas.statuses import ObservedOutcome

LAST_POLL_LEAD_MS = 10_000
"""A running response is polled this long before its job's deadline, in case its webhook was lost."""


class WebhookReceived(ResponseMessage):
    """An authentic webhook, kept raw. It causes a poll; it is never proof that the response ended."""

    topic: ClassVar[str] = "responses"
    type: Literal["webhook_received"] = "webhook_received"
    webhook_id: str
    event_type: str
    """For example `response.completed`; unknown `response.*` types are kept too."""
    sent_at_ms: UnixMs
    """The webhook-timestamp header."""
    ended_at_ms: UnixMs | None = None
    """`created_at` of the event: when the response ended, by the provider's clock (whole seconds)."""
    key_id: str
    """A short digest of the webhook secret that verified it."""
    raw: str
    """The body, byte for byte. It was parsed, so it is UTF-8 JSON."""
    claim_by_ms: UnixMs
    """When to poll if the response is still unclaimed; stamped by the receiver."""
    forget_after_ms: SpanMs
    """How long an unclaimed or foreign response is remembered."""


class ResponseClaimed(ResponseMessage):
    """The job fold says that this response is an attempt of that job, and how it is to be polled."""

    topic: ClassVar[str] = "responses"
    type: Literal["response_claimed"] = "response_claimed"
    job_id: JobId
    attempt: Int64 = Field(ge=1)
    tenant: TenantId
    poll_at_ms: UnixMs
    latency_class: LatencyClass | None = None
    control: Literal[True] | None = None
    """As in `AttemptAccepted`."""
    last_poll_at_ms: UnixMs
    """The latest time of a poll before the job's deadline (`LAST_POLL_LEAD_MS`)."""
    missing_grace_ms: SpanMs
    missing_patience_ms: SpanMs = 120_000
    stuck_after_ms: SpanMs | None = None
    stuck_factor: float | None = None
    include: tuple[str, ...] | None = None
    forget_after_ms: SpanMs
    stream: Literal[True] | None = None
    """Its partial output can be followed while it runs. Absent where it can't."""
    made_elsewhere: Literal[True] | None = None
    """An application created the response and asked Backstop to adopt it."""
    released: Literal[True] | None = None
    """No job waits for the response: it is cancelled at once, and polled until it has ended. Absent if a job waits."""
    hedge: HedgeTerms | None = None
    """The job may have a second attempt beside this one. Absent if it may not, or has had one."""


class ResponseReleased(ResponseMessage):
    """The job fold says that no job waits for this response any more. It is cancelled until it has ended."""

    topic: ClassVar[str] = "responses"
    type: Literal["response_released"] = "response_released"
    job_id: JobId


class ResponseDeadlineMoved(ResponseMessage):
    """The job fold says that the deadline of the job that waits for this response was changed."""

    topic: ClassVar[str] = "responses"
    type: Literal["response_deadline_moved"] = "response_deadline_moved"
    job_id: JobId
    last_poll_at_ms: UnixMs
    """As in `ResponseClaimed`."""
    change: Int64 = Field(ge=1)
    """The number of the change of the job. A move with a smaller number than the last one is ignored."""


class ResponseObserved(ResponseMessage):
    """What one poll, or the answer to a cancel, showed."""

    topic: ClassVar[str] = "responses"
    type: Literal["response_observed"] = "response_observed"
    command_id: str
    outcome: ObservedOutcome
    raw_status: str | None = None
    cause: Cause | None = None
    code: str | None = None
    message: str | None = None
    said_by: Literal["backstop"] | None = None
    """`backstop`: `message` is Backstop's own text. Absent: it is the provider's."""
    wait_ms: SpanMs = 0
    """The minimum wait that a failure asked for; 0 for none."""
    continuation_id: str | None = None
    response: Body | None = None
    usage: Usage | None = None
    terms: Terms | None = None
    job_id: JobId | None = None
    """Job, attempt and tenant named by the object's `metadata`, if well-formed. A claim, not a proof."""
    attempt: Int64 | None = None
    tenant: TenantId | None = None
    provider_created_at_ms: UnixMs | None = None
    provider_ended_at_ms: UnixMs | None = None
    next_poll_at_ms: UnixMs
    """When to poll again if the response has not ended; stamped by the poller's policy."""
    poll_basis: PollBasis | None = None
    others_ended_at_ms: UnixMs | None = None
    """When this process last saw another response end; None if it saw none."""
    progress: Int64 | None = None
    """Tokens and bytes of output that a response without an end shows; absent for none. It changes while it works."""
    typical_ms: SpanMs | None = None
    """A high quantile of the run times of the model; None if this process has seen too few of them."""

    _older = model_validator(mode="before")(cause_of_older)


class PollFailed(ResponseMessage):
    """A poll got no usable answer, after all of its tries."""

    topic: ClassVar[str] = "responses"
    type: Literal["poll_failed"] = "poll_failed"
    command_id: str
    reason: str
    next_poll_at_ms: UnixMs
    poll_basis: PollBasis | None = None


class ResponseTimerFired(ResponseMessage):
    topic: ClassVar[str] = "responses"
    type: Literal["timer_fired"] = "timer_fired"
    due_ms: UnixMs
    next_poll_at_ms: UnixMs
    """When the poll after this one is due; stamped by the scheduler's policy."""
    hedge_at_ms: UnixMs | None = None
    """When to ask whether the response may be hedged. Absent if it may not, or if too little is known."""
    permit: HedgePermit | None = None
    """A hedge is permitted, if the next poll still finds the response queued or running."""
    poll_basis: PollBasis | None = None


ResponseFact = Annotated[
    WebhookReceived
    | ResponseClaimed
    | ResponseReleased
    | ResponseDeadlineMoved
    | ResponseObserved
    | PollFailed
    | ResponseTimerFired,
    Field(discriminator="type"),
]
RESPONSE_FACT: TypeAdapter[ResponseFact] = TypeAdapter(ResponseFact)
