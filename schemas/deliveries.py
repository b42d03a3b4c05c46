"""The facts of a delivery (one event for one webhook endpoint), and requests for resends. On `deliveries`.

Each fact contains the whole delivery, so a reader may begin anywhere in the log.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, TypeAdapter

from schemas.base import Frozen, Int64, JobId, Message, StampMs, TenantId, UnixMs
from schemas.traces import Traceparent
from schemas.webhook_endpoints import EndpointId, EventType

DeliveryId = Annotated[str, StringConstraints(pattern=r"^whd_[0-9a-f]{32}$")]
"""Also sent as `webhook-id`: the same for each attempt, and after a resend."""

FailedBy = Literal[
    "status", "redirect", "timeout", "dns", "address_refused", "url_refused", "tls", "connection", "no_secret",
]  # fmt: skip
"""`status`: an answer other than 2xx. `address_refused`: the host has an address that webhooks must not reach."""

DeadBy = Literal["gave_up", "gone", "backlog", "disabled", "removed"]
"""`gave_up`: the last attempt failed. `gone`: the endpoint answered 410. `backlog`: the endpoint's backlog was full."""


class Delivery(Frozen):
    """One event for one endpoint."""

    endpoint_id: EndpointId
    tenant: TenantId
    job_id: JobId
    event_type: EventType
    response_id: str = Field(max_length=200)
    """The response id that is shown to the tenant."""
    created_at_s: Int64 = Field(ge=0)
    """When the response ended."""
    test: bool = False
    """A test of the endpoint: one attempt, and no dead letter."""
    traceparent: Traceparent | None = None
    """Of the job's span. Absent where the submission had none."""


class DeliveryMessage(Message):
    topic: ClassVar[str] = "deliveries"
    delivery_id: DeliveryId
    delivery: Delivery
    asked_at_ms: StampMs = 0
    """When the resend of which this fact is part was requested; 0 if a result caused the delivery."""

    @property
    def key(self) -> str:
        return self.delivery_id


class DeliveryPlanned(DeliveryMessage):
    """A result came for which this endpoint is subscribed. Due at once."""

    type: Literal["delivery_planned"] = "delivery_planned"


class DeliveryAsked(DeliveryMessage):
    """A resend was requested, after success or failure. Due at once; attempts count from 1 again."""

    type: Literal["delivery_asked"] = "delivery_asked"


class DeliveryFailed(DeliveryMessage):
    """An attempt got no 2xx. The next attempt is due at `next_at_ms`."""

    type: Literal["delivery_failed"] = "delivery_failed"
    attempt: Int64 = Field(ge=1)
    next_at_ms: UnixMs
    failed_by: FailedBy
    status: Int64 | None = None


class DeliveryDone(DeliveryMessage):
    type: Literal["delivery_done"] = "delivery_done"
    attempt: Int64 = Field(ge=1)
    status: Int64


class DeliveryDead(DeliveryMessage):
    """No more attempts, unless a resend is requested."""

    type: Literal["delivery_dead"] = "delivery_dead"
    attempt: Int64 = Field(ge=0)
    dead_by: DeadBy
    failed_by: FailedBy | None = None
    status: Int64 | None = None


class ResendAsked(Message):
    """Resend an endpoint all events of responses that ended in a span of time. The sender that reads this does it;
    after a crash it starts again.
    """

    topic: ClassVar[str] = "deliveries"
    type: Literal["resend_asked"] = "resend_asked"
    endpoint_id: EndpointId
    tenant: TenantId
    since_ms: StampMs
    until_ms: StampMs

    @property
    def key(self) -> str:
        return self.id


class ResendDone(Message):
    topic: ClassVar[str] = "deliveries"
    type: Literal["resend_done"] = "resend_done"
    resend_id: str = Field(max_length=200)
    count: Int64 = Field(ge=0)
    complete: bool
    """False if the limit of one resend was reached."""

    @property
    def key(self) -> str:
        return self.resend_id


DeliveryFact = DeliveryPlanned | DeliveryAsked | DeliveryFailed | DeliveryDone | DeliveryDead
DeliveryRecord = Annotated[DeliveryFact | ResendAsked | ResendDone, Field(discriminator="type")]
DELIVERY_RECORD: TypeAdapter[DeliveryFact | ResendAsked | ResendDone] = TypeAdapter(DeliveryRecord)
"""All records on the topic."""
