"""The facts of a delivery (one event on its way to one endpoint), and what an operator asked for. On `deliveries`.

Each fact of a delivery carries the whole delivery: a reader may begin anywhere in the log, and knows of a delivery from its next
record on.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, TypeAdapter

from schemas.base import Frozen, JobId, Message, StampMs, TenantId, UnixMs
from schemas.webhook_endpoints import EndpointId, EventType

DeliveryId = Annotated[str, StringConstraints(pattern=r"^whd_[0-9a-f]{32}$")]
"""Also the `webhook-id`: the same for each attempt, and after a resend."""

FailedBy = Literal[
    "status", "redirect", "timeout", "dns", "address_refused", "url_refused", "tls", "connection", "no_secret",
]  # fmt: skip
"""`status`: an answer other than 2xx. `address_refused`: the name leads to where no webhook may go."""

DeadBy = Literal["gave_up", "gone", "backlog", "disabled", "removed"]
"""`gave_up`: after the last attempt. `gone`: 410. `backlog`: too many were waiting for this endpoint."""


class Delivery(Frozen):
    """What is delivered, and where to."""

    endpoint_id: EndpointId
    tenant: TenantId
    job_id: JobId
    event_type: EventType
    response_id: str = Field(max_length=200)
    """As the tenant knows it."""
    created_at_s: int = Field(ge=0)
    """When the response ended."""
    test: bool = False
    """Asked for to see whether the endpoint works: one attempt, and no dead letter."""


class DeliveryMessage(Message):
    topic: ClassVar[str] = "deliveries"
    delivery_id: DeliveryId
    delivery: Delivery
    asked_at_ms: StampMs = 0
    """Of the resend by hand that it belongs to; 0 for what the result itself set going."""

    @property
    def key(self) -> str:
        return self.delivery_id


class DeliveryPlanned(DeliveryMessage):
    """A result came, and this endpoint wants to hear of it. Due at once."""

    type: Literal["delivery_planned"] = "delivery_planned"


class DeliveryAsked(DeliveryMessage):
    """Somebody wants it sent, whether it was delivered or not. Due at once, from the first attempt on."""

    type: Literal["delivery_asked"] = "delivery_asked"


class DeliveryFailed(DeliveryMessage):
    """An attempt brought no 2xx; the next is due at `next_at_ms`."""

    type: Literal["delivery_failed"] = "delivery_failed"
    attempt: int = Field(ge=1)
    next_at_ms: UnixMs
    failed_by: FailedBy
    status: int | None = None


class DeliveryDone(DeliveryMessage):
    type: Literal["delivery_done"] = "delivery_done"
    attempt: int = Field(ge=1)
    status: int


class DeliveryDead(DeliveryMessage):
    """No more attempts, unless somebody asks for them."""

    type: Literal["delivery_dead"] = "delivery_dead"
    attempt: int = Field(ge=0)
    dead_by: DeadBy
    failed_by: FailedBy | None = None
    status: int | None = None


class ResendAsked(Message):
    """Send an endpoint all that ended in a span of time. Done by whoever reads this; a crash begins it anew."""

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
    count: int = Field(ge=0)
    complete: bool
    """False: the limit of one resend was reached."""

    @property
    def key(self) -> str:
        return self.resend_id


DeliveryFact = DeliveryPlanned | DeliveryAsked | DeliveryFailed | DeliveryDone | DeliveryDead
DeliveryRecord = Annotated[DeliveryFact | ResendAsked | ResendDone, Field(discriminator="type")]
DELIVERY_RECORD: TypeAdapter[DeliveryFact | ResendAsked | ResendDone] = TypeAdapter(DeliveryRecord)
"""All that may stand on the topic."""
