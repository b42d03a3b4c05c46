"""What every message on a topic has in common.

A message is plain JSON with a `type` that never changes its meaning and a schema version `v`. Unknown fields are ignored, so
that a newer writer can roll out before its readers; an unknown `v` is refused (see `schemas.codec`), because its writer
says that old readers would misread it.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

SCHEMA_VERSION = 1

ID_CHARS_MAX = 2_048
"""Of a message's id: it may hold a response id and what was done about it."""

JOB_ID_PATTERN = r"^[A-Za-z0-9_.:\-]{1,128}$"
JobId = Annotated[str, StringConstraints(pattern=JOB_ID_PATTERN)]
"""Chosen by the caller or derived at the door; also the record key on every job-keyed topic."""

RESPONSE_ID_CHARS_MAX = 1_024
RESPONSE_ID_PATTERN = rf"^[\x21-\x7e]{{1,{RESPONSE_ID_CHARS_MAX}}}$"
ResponseId = Annotated[str, StringConstraints(pattern=RESPONSE_ID_PATTERN)]
"""The provider's id, opaque to us. Gateways encode their routing into it (LiteLLM's have 453 characters and end in `==`): the
pattern only keeps it printable and bounded."""

TENANT_ID_PATTERN = r"^[a-z0-9_\-]{1,64}$"
TenantId = Annotated[str, StringConstraints(pattern=TENANT_ID_PATTERN)]

KeyId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_\-]{1,64}$")]
"""Of an API key: it names the key and proves nothing."""

DEFAULT_TENANT = "default"

Cause = Literal["limited", "overloaded", "faulty", "later", "account", "odd", "never", "held", "unsent"]
"""Why a create was refused, or an accepted response failed. The cause decides what is waited for, and who must act:

- `limited`: a rate limit. `overloaded`: the provider has no capacity. `faulty`: an error of the provider's own.
- `later`: refused for a condition that passes by itself (locked, queue full). `account`: key, quota, billing or permission; a person
  must act, and until then every request of the lane meets the same.
- `odd`: a refusal that does not say what it means. `never`: the same request will always be refused.
- `held`: our own lane is closed, so nothing was sent. `unsent`: nothing left this process (no connection, an expired command).
"""

_CAUSE_OF_BLAME = {"soon": "faulty", "reset": "limited", "never": "never"}


def cause_of_older(data: Any) -> Any:
    """Facts of older releases named who is to blame instead of the cause."""
    if isinstance(data, dict) and data.get("cause") is None and data.get("blame") in _CAUSE_OF_BLAME:
        return {**data, "cause": _CAUSE_OF_BLAME[data["blame"]]}
    return data


FoundBy = Literal["webhook", "poll", "create"]
"""What made us fetch the response that settled an attempt; `create`: the create's own answer held its end."""


StampMs = Annotated[int, Field(ge=0, le=2**48)]
"""Unix milliseconds as a clock gave them."""

SpanMs = Annotated[int, Field(ge=0, le=2**42)]
"""A duration in milliseconds."""

UnixMs = Annotated[int, Field(ge=0, le=2**52)]
"""Unix milliseconds, perhaps reckoned from a stamp and spans: the bounds leave room, so that a fold's sums are always valid."""


class Frozen(BaseModel):
    """A value inside a message."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class InlineBody(Frozen):
    """A JSON value small enough to ride in the record."""

    kind: Literal["inline"] = "inline"
    value: JsonValue


class BlobBody(Frozen):
    """A JSON value kept in the blob store under the SHA-256 of its bytes; written before any record that refers to it."""

    kind: Literal["blob"] = "blob"
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: int


Body = Annotated[InlineBody | BlobBody, Field(discriminator="kind")]


class Message(Frozen):
    """A record's value. `id` is derived from what caused it, so that a repeat has the same id and the same bytes."""

    topic: ClassVar[str]
    """The logical topic it belongs to (`schemas.topics`)."""

    v: Literal[1] = 1
    id: str = Field(min_length=1, max_length=ID_CHARS_MAX)
    at_ms: StampMs
    """Unix milliseconds, by the clock of the process that wrote it. The folds know no other time."""

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
    """Tokens as the provider counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def paid(self) -> bool:
        return self.total_tokens + self.output_tokens + self.input_tokens > 0
