"""The facts of a response: the union of what stands on the `responses` log, keyed by response id."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter, model_validator

from schemas.base import Body, Cause, JobId, ResponseMessage, SpanMs, TenantId, UnixMs, Usage, cause_of_older
from schemas.statuses import ObservedOutcome

LAST_POLL_LEAD_MS = 10_000
"""A running response is looked at this long before its job's deadline, so that a lost webhook does not lose a finished answer."""


class WebhookReceived(ResponseMessage):
    """An authentic webhook, kept raw. A hint that something ended, never the proof."""

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
    """Which of our secrets verified it (a short digest, never the secret)."""
    raw: str
    """The body, byte for byte (it is UTF-8 JSON: it has been parsed)."""
    claim_by_ms: UnixMs
    """When to look by ourselves if nobody has claimed the response until then; stamped by the receiver."""
    forget_after_ms: SpanMs
    """How long an unclaimed or foreign response is remembered."""


class ResponseClaimed(ResponseMessage):
    """The job fold says: this response is an attempt of that job. Carries what the looking needs to know."""

    topic: ClassVar[str] = "responses"
    type: Literal["response_claimed"] = "response_claimed"
    job_id: JobId
    attempt: int = Field(ge=1)
    tenant: TenantId
    poll_at_ms: UnixMs
    last_poll_at_ms: UnixMs
    """A look is due at this time at the latest: shortly before the job's deadline."""
    missing_grace_ms: SpanMs
    missing_patience_ms: SpanMs = 120_000
    stuck_after_ms: SpanMs | None = None
    stuck_factor: float | None = None
    include: tuple[str, ...] | None = None
    forget_after_ms: SpanMs
    stream: Literal[True] | None = None
    """Its partial output can be followed while it runs. Absent where it can't."""
    made_elsewhere: Literal[True] | None = None
    """No create of ours made it, as far as the job knows: an application did, and asked for it to be adopted."""
    released: Literal[True] | None = None
    """No job waits for it: it is cancelled at once, and watched until it has ended. Absent where one does."""


class ResponseReleased(ResponseMessage):
    """The job fold says: nobody waits for this response any more. It costs money: cancel it until it has ended."""

    topic: ClassVar[str] = "responses"
    type: Literal["response_released"] = "response_released"
    job_id: JobId


class ResponseObserved(ResponseMessage):
    """What one poll (or the answer to a cancel) saw."""

    topic: ClassVar[str] = "responses"
    type: Literal["response_observed"] = "response_observed"
    command_id: str
    outcome: ObservedOutcome
    raw_status: str | None = None
    cause: Cause | None = None
    code: str | None = None
    message: str | None = None
    wait_ms: SpanMs = 0
    """The least wait that a failure asked for; 0 where it asked for none."""
    continuation_id: str | None = None
    response: Body | None = None
    usage: Usage | None = None
    job_id: JobId | None = None
    """`metadata` of the object, where it is well-formed: who it says that it belongs to."""
    attempt: int | None = None
    tenant: TenantId | None = None
    provider_created_at_ms: UnixMs | None = None
    provider_ended_at_ms: UnixMs | None = None
    next_poll_at_ms: UnixMs
    """When to look again if this was not the end; stamped by the caller's policy."""
    others_ended_at_ms: UnixMs | None = None
    """When this process last saw another response end; None where it saw none."""
    typical_ms: SpanMs | None = None
    """What runs of the model take (a high quantile), where this process has seen enough of them."""

    _older = model_validator(mode="before")(cause_of_older)


class PollFailed(ResponseMessage):
    """A look got no usable answer, its own repeats included."""

    topic: ClassVar[str] = "responses"
    type: Literal["poll_failed"] = "poll_failed"
    command_id: str
    reason: str
    next_poll_at_ms: UnixMs


class ResponseTimerFired(ResponseMessage):
    topic: ClassVar[str] = "responses"
    type: Literal["timer_fired"] = "timer_fired"
    due_ms: UnixMs
    next_poll_at_ms: UnixMs
    """When the look after this one is due; stamped by the scheduler's policy."""


ResponseFact = Annotated[
    WebhookReceived | ResponseClaimed | ResponseReleased | ResponseObserved | PollFailed | ResponseTimerFired,
    Field(discriminator="type"),
]
RESPONSE_FACT: TypeAdapter[
    WebhookReceived | ResponseClaimed | ResponseReleased | ResponseObserved | PollFailed | ResponseTimerFired
] = TypeAdapter(ResponseFact)
