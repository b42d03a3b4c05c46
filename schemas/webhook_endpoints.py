"""The webhook endpoints of tenants, which are notified when responses end. Facts on `webhook-endpoints`.

The topic is compacted, so only the last record of a key is sure to stay. Therefore each kind of fact has a key of its
own and is complete in itself. A reader merges up to three records of an endpoint, in any order.
"""

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, StringConstraints, TypeAdapter

from schemas.base import Frozen, Int64, Message, StampMs, TenantId, UnixMs

EventType = Literal["response.completed", "response.failed", "response.incomplete", "response.cancelled"]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)

URL_CHARS_MAX = 2_000
NAME_CHARS_MAX = 100

EndpointId = Annotated[str, StringConstraints(pattern=r"^we_[0-9a-f]{32}$")]


class SecretRef(Frozen):
    """Names a signing secret. The secret is derived from a key that is on no topic (`backstop.outgoing.secrets`)."""

    key_id: str = Field(max_length=64)
    number: Int64 = Field(ge=1)
    until_ms: UnixMs | None = None
    """Set on a rotated secret: until then it signs beside its successor."""


class EndpointMessage(Message):
    topic: ClassVar[str] = "webhook-endpoints"
    endpoint_id: EndpointId
    tenant: TenantId


class EndpointSaved(EndpointMessage):
    """The endpoint was registered or changed: its complete new state."""

    type: Literal["endpoint_saved"] = "endpoint_saved"
    created_at_ms: UnixMs
    url: str = Field(max_length=URL_CHARS_MAX)
    name: str = Field(default="", max_length=NAME_CHARS_MAX)
    event_types: tuple[EventType, ...] = EVENT_TYPES
    secrets: tuple[SecretRef, ...] = Field(min_length=1, max_length=2)
    """The current secret comes first."""

    @property
    def key(self) -> str:
        return self.endpoint_id


class EndpointSwitched(EndpointMessage):
    """The endpoint was disabled, or enabled again."""

    type: Literal["endpoint_switched"] = "endpoint_switched"
    enabled: bool
    reason: str = Field(default="", max_length=200)

    @property
    def key(self) -> str:
        return f"{self.endpoint_id}/switch"


class EndpointRemoved(EndpointMessage):
    """The endpoint was removed. This is final."""

    type: Literal["endpoint_removed"] = "endpoint_removed"
    removed_at_ms: StampMs

    @property
    def key(self) -> str:
        return f"{self.endpoint_id}/removed"


EndpointFact = Annotated[EndpointSaved | EndpointSwitched | EndpointRemoved, Field(discriminator="type")]
ENDPOINT_FACT: TypeAdapter[EndpointSaved | EndpointSwitched | EndpointRemoved] = TypeAdapter(EndpointFact)
