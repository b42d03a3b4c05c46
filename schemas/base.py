"""The fields, ids and bounds that all messages on topics share.

A message is plain JSON with a `type` that never changes its meaning, and a schema version `v`. Unknown fields are
ignored, so that a newer writer can be rolled out before its readers. An unknown `v` is refused (`schemas.codec`): a
writer raises `v` only where older readers would misread the message.
"""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SkipValidation, StringConstraints

SCHEMA_VERSION = 1

ID_CHARS_MAX = 2_048
"""Limit of a message's id, which may contain a response id and a suffix."""

JOB_ID_PATTERN = r"^[A-Za-z0-9_.:\-]{1,128}$"
JobId = Annotated[str, StringConstraints(pattern=JOB_ID_PATTERN)]
"""Chosen by the client or derived by the ingress. Also the record key on every topic keyed by job."""

RESPONSE_ID_CHARS_MAX = 1_024
RESPONSE_ID_PATTERN = rf"^[\x21-\x7e]([\x20-\x7e]{{0,{RESPONSE_ID_CHARS_MAX - 2}}}[\x21-\x7e])?$"
ResponseId = Annotated[str, StringConstraints(pattern=RESPONSE_ID_PATTERN)]
"""The provider's id of a response, opaque to Backstop. Gateways encode their routing into ids (LiteLLM's have 453
characters and end in `==`), so the pattern only keeps an id printable and bounded."""

TENANT_ID_PATTERN = r"^[a-z0-9_\-]{1,64}$"
TenantId = Annotated[str, StringConstraints(pattern=TENANT_ID_PATTERN)]

KeyId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_\-]{1,64}$")]
"""Identifies an API key in facts and logs; not a credential."""

DEFAULT_TENANT = "default"

Cause = Literal["limited", "overloaded", "faulty", "later", "account", "odd", "never", "held", "unsent"]
"""Why a create was refused, or why an accepted response failed. The cause decides how long a job waits and who must
act:

- `limited`: a rate limit. `overloaded`: the provider has no capacity. `faulty`: an error at the provider.
- `later`: a condition that passes by itself (locked, queue full).
- `account`: key, quota, billing or permission. An operator must act; until then every request of the lane is refused.
- `odd`: a refusal without a known meaning. `never`: the same request will always be refused.
- `held`: the lane is closed, so the create was not sent.
- `unsent`: no byte left this process (no connection, or an expired command).
"""

NEVER_SENT: Final = "never_sent"
"""The code of an `unsent` refusal where no connection to the provider was made. With any other code a worker did not
begin the create, which says nothing of the provider."""

_CAUSE_OF_BLAME = {"soon": "faulty", "reset": "limited", "never": "never"}


def cause_of_older(data: Any) -> Any:
    """Translate the field `blame` of older releases into `cause`."""
    if isinstance(data, dict) and data.get("cause") is None and data.get("blame") in _CAUSE_OF_BLAME:
        return {**data, "cause": _CAUSE_OF_BLAME[data["blame"]]}
    return data


Priority = Literal["interactive", "normal", "bulk"]
"""The class in which a job waits for its turn."""

FoundBy = Literal["webhook", "poll", "create"]
"""What led to the observation that settled an attempt. `create`: the answer to the create already held the end."""


StampMs = Annotated[int, Field(ge=0, le=2**48)]
"""Unix milliseconds as read from a clock."""

SpanMs = Annotated[int, Field(ge=0, le=2**42)]
"""A duration in milliseconds."""

UnixMs = Annotated[int, Field(ge=0, le=2**52)]
"""Unix milliseconds, read or computed. The bound leaves room for a stamp plus several spans, so that sums computed by a
fold are always valid."""


Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
"""A number that each database can store. JSON may have larger ones."""

LatencyClass = Annotated[tuple[Annotated[str, StringConstraints(max_length=64)], ...], Field(max_length=3)]
"""Model, effort and size of a request: responses with the same ones run about as long. May be shorter: a parent."""


class Frozen(BaseModel):
    """An immutable value inside a message."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class PollBasis(Frozen):
    """What the time of a poll was decided from. Absent where the fixed schedule decided."""

    latency_class: LatencyClass
    """The class whose run times decided: that of the response, or a parent of it."""
    ends: Int64 = Field(ge=0)
    """How many ends of the class were counted."""
    loss: float = Field(ge=0, le=1)
    """The share of ends without a webhook in time."""
    price_s: float = Field(gt=0)
    """The seconds of late detection that one poll was worth."""
    policy: Int64 = Field(ge=1)
    """The version of the policy."""


class InlineBody(Frozen):
    """A JSON value that is small enough to be stored in the record."""

    kind: Literal["inline"] = "inline"
    value: Annotated[JsonValue, SkipValidation]
    """Any JSON. It was parsed before a body is made, so it is not validated again at each hop."""


class BlobBody(Frozen):
    """A JSON value in the blob store, keyed by the SHA-256 of its bytes. Written before records that refer to it."""

    kind: Literal["blob"] = "blob"
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Int64


Body = Annotated[InlineBody | BlobBody, Field(discriminator="kind")]


class Message(Frozen):
    """A record's value. `id` is derived from the cause of the message: a repeat has the same id and the same bytes."""

    topic: ClassVar[str]
    """The logical topic of the message (`schemas.topics`)."""

    v: Literal[1] = 1
    id: str = Field(min_length=1, max_length=ID_CHARS_MAX)
    at_ms: StampMs
    """Unix milliseconds, by the clock of the writing process. The folds use no other time."""

    @property
    def key(self) -> str:
        """The record key."""
        raise NotImplementedError


class JobMessage(Message):
    job_id: JobId

    @property
    def key(self) -> str:
        return self.job_id


class ResponseMessage(Message):
    response_id: ResponseId

    @property
    def key(self) -> str:
        return self.response_id


class Usage(Frozen):
    """Token counts as reported by the provider."""

    input_tokens: Int64 = 0
    output_tokens: Int64 = 0
    total_tokens: Int64 = 0
    cached_tokens: Int64 = 0
    reasoning_tokens: Int64 = 0
    cache_write_tokens: Int64 | None = Field(default=None, exclude_if=lambda value: value is None)
    """Part of `input_tokens`. Absent, never null, if the provider does not tell it."""

    @property
    def paid(self) -> bool:
        return self.total_tokens + self.output_tokens + self.input_tokens > 0


class Terms(Frozen):
    """What a response's price depends on besides its tokens, as its object tells it. A field is absent if not told."""

    model: str | None = None
    """The model that served the response. It may be a dated version of the one that was asked for."""
    service_tier: str | None = None
    window: str | None = None
    """The completion window; absent for none and for `soonest`."""
    web_search_calls: Int64 | None = None
    file_search_calls: Int64 | None = None
    containers: Int64 | None = None
    """Different containers of the code interpreter."""
    part_of_usage: Literal[True] | None = None
    """Tokens were used, and the object tells only a part of the counts: `usage` is null all the same."""
