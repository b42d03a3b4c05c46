"""The declarations of `/v1/webhook_endpoints`: bodies, answers and routes.

Paths, bodies and objects are those of OpenAI's API, so `client.webhooks.create(...)` of its SDKs works here. `resend`,
`enabled` and `disabled_because` are Backstop's; `test` does not wait for the endpoint's answer.
"""

from typing import Annotated, Any, Final, Literal, NotRequired, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints, model_validator
from typing_extensions import TypedDict

from backstop.runtime.http.routes import Answer, Route
from schemas.base import StampMs
from schemas.requests import NUMBER, GivenJobId
from schemas.webhook_endpoints import EVENT_TYPES, NAME_CHARS_MAX, URL_CHARS_MAX, EndpointId, EventType

PATH: Final = "/v1/webhook_endpoints"
ONE: Final = PATH + "/{endpoint_id}"

Name = Annotated[str, StringConstraints(max_length=NAME_CHARS_MAX)]
Url = Annotated[str, StringConstraints(max_length=URL_CHARS_MAX)]
EventTypes = Annotated[tuple[EventType, ...], Field(min_length=1, max_length=len(EVENT_TYPES))]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class EndpointBody(_Body):
    url: Url
    """https, a public host name, no user name, no fragment."""
    event_types: EventTypes = EVENT_TYPES
    name: Name = ""


class EndpointChange(_Body):
    """The changes; omitted fields stay."""

    url: Url | None = None
    event_types: EventTypes | None = None
    name: Name | None = None
    enabled: StrictBool | None = None
    """`true` enables an endpoint again that a 410 disabled. Events of the meantime are not sent: use resend."""


class RotateBody(_Body):
    keep_old_secret_active_for_24_hours: StrictBool = False
    """With `true`, deliveries carry two signatures for 24 hours, one of each secret."""


class TestBody(_Body):
    __test__ = False  # for pytest, which looks for tests by name

    event_type: EventType = "response.completed"


_JOB: Final[dict[str, Any]] = {"required": ["job_id"], "properties": {"job_id": {"type": "string"}}}
_SINCE: Final[dict[str, Any]] = {"required": ["since_ms"], "properties": {"since_ms": {"type": "number"}}}


class ResendBody(_Body):
    """One job, or all jobs that ended since a time."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [_JOB, _SINCE]})

    job_id: GivenJobId | None = None
    since_ms: Annotated[StampMs, NUMBER] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.job_id is None) is (self.since_ms is None):
            raise ValueError("give either job_id or since_ms")
        return self


class EndpointDocument(TypedDict):
    """An endpoint as OpenAI's API shows it, with `enabled` and `disabled_because` of Backstop."""

    id: str
    object: Literal["webhook_endpoint"]
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[EventType]
    signing_secret_hint: str
    enabled: bool
    disabled_because: str | None
    signing_secret: NotRequired[str]


class EndpointsDocument(TypedDict):
    object: Literal["list"]
    data: list[EndpointDocument]
    first_id: str | None
    last_id: str | None
    has_more: bool


class RemovedDocument(TypedDict):
    id: str
    object: Literal["webhook_endpoint.deleted"]
    deleted: bool


class SendingDocument(TypedDict):
    """The log has the request; `backstop outgoing` sends the events."""

    object: Literal["webhook_endpoint.test", "webhook_endpoint.resend"]
    webhook_endpoint_id: str
    delivery_id: str | None
    resend_id: str | None


_IDS: Final = {"endpoint_id": EndpointId}
_CODES: Final = {404: ("endpoint_not_found", "webhooks_off"), 503: ("log_unavailable",)}
_OFF: Final = {404: ("webhooks_off",), 503: ("log_unavailable",)}
REGISTER: Final = Route(
    "POST", PATH, name="createWebhookEndpoint", access="operate", body=EndpointBody,
    says="Register a webhook endpoint. The answer contains the signing secret, which is not shown again.",
    answers=(Answer(200, "The endpoint, with its secret.", EndpointDocument),),
    problems={**_OFF, 409: ("too_many_endpoints",)},
)  # fmt: skip
LIST: Final = Route(
    "GET", PATH, name="listWebhookEndpoints", access="read", says="The webhook endpoints, oldest first.",
    answers=(Answer(200, "All webhook endpoints of the tenant.", EndpointsDocument),), problems=_OFF,
)  # fmt: skip
SHOW: Final = Route(
    "GET", ONE, name="getWebhookEndpoint", access="read", ids=_IDS, says="A webhook endpoint.",
    answers=(Answer(200, "The endpoint.", EndpointDocument),), problems=_CODES,
)  # fmt: skip
CHANGE: Final = Route(
    "POST", ONE, name="updateWebhookEndpoint", access="operate", ids=_IDS, body=EndpointChange,
    says="Change a webhook endpoint, or enable it again.",
    answers=(Answer(200, "The endpoint.", EndpointDocument),), problems=_CODES,
)  # fmt: skip
REMOVE: Final = Route(
    "DELETE", ONE, name="deleteWebhookEndpoint", access="operate", ids=_IDS,
    says="Remove a webhook endpoint. Its pending deliveries are not sent.",
    answers=(Answer(200, "The endpoint is removed.", RemovedDocument),), problems=_CODES,
)  # fmt: skip
ROTATE: Final = Route(
    "POST", ONE + "/rotate_secret", name="rotateWebhookEndpointSecret", access="operate", ids=_IDS, body=RotateBody,
    body_required=False, says="Give a webhook endpoint a new signing secret.",
    answers=(Answer(200, "The endpoint, with its new secret.", EndpointDocument),), problems=_CODES,
)  # fmt: skip
TEST: Final = Route(
    "POST", ONE + "/test", name="testWebhookEndpoint", access="operate", ids=_IDS, body=TestBody, body_required=False,
    says="Send a test event, once, about a response that does not exist.",
    answers=(Answer(202, "The log has the request.", SendingDocument),),
    problems={**_CODES, 409: ("endpoint_disabled",)},
)  # fmt: skip
RESEND: Final = Route(
    "POST", ONE + "/resend", name="resendWebhooks", access="operate", ids=_IDS, body=ResendBody,
    says="Send the event of one job again, or of all jobs that ended since a time, delivered or not.\n\nEach keeps the "
    "`webhook-id` of its first delivery.",
    answers=(Answer(202, "The log has the request.", SendingDocument),),
    problems={
        404: ("endpoint_not_found", "job_not_found", "webhooks_off"), 409: ("endpoint_disabled", "job_open"),
        503: ("log_unavailable", "reads_unavailable"),
    },
)  # fmt: skip
