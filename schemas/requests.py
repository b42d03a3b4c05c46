"""The requests of clients: records on `requests` and bodies of `POST /v1/jobs`, in the same two shapes.

Unknown fields are refused here, so that a client learns of a typo at once.
"""

from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    PlainSerializer,
    StrictBool,
    StringConstraints,
    TypeAdapter,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from schemas.base import Priority, ResponseId, UnixMs
from schemas.codec import deeper_than
from schemas.fallbacks import AFTER_MS, AFTER_MS_MAX, AFTER_MS_MIN, FALLBACKS_MAX, FallbackChoice
from schemas.hedges import unhedgeable
from schemas.spend_caps import COST_USD_MAX, TOKENS_MAX

JOB_ID_CHARS_MAX = 100
GIVEN_JOB_ID_PATTERN = r"^[.]*[A-Za-z0-9_\-][A-Za-z0-9_.\-]*$"
GivenJobId = Annotated[str, StringConstraints(pattern=GIVEN_JOB_ID_PATTERN, max_length=JOB_ID_CHARS_MAX)]
"""A job id that a client chose. No colon: `tenant:id` is the qualified form on the topics (`schemas.job_ids`). Not of
dots alone: clients remove `.` and `..` from a path, so no request could name the job.
"""

METADATA_JOB, METADATA_ATTEMPT, METADATA_TENANT = "backstop_job", "backstop_attempt", "backstop_tenant"
METADATA_OURS = frozenset({METADATA_JOB, METADATA_ATTEMPT, METADATA_TENANT})
"""Metadata keys that Backstop sets on each create, to adopt unclaimed responses. All others belong to users."""

METADATA_OURS_BEFORE = ("job", "attempt", "tenant")
"""The keys that older releases set. Their responses may still run or be read. Users may have keys of these names."""

MODEL_CHARS_MAX = 128
METADATA_PAIRS_MAX = 16 - len(METADATA_OURS)
METADATA_NAME_CHARS_MAX = 64
METADATA_VALUE_CHARS_MAX = 512
TIMEOUT_MS_MIN = 1_000
TIMEOUT_MS_MAX = 7 * 24 * 3_600_000
RETRIES_MAX = 10
REQUEST_BYTES_MAX = 1 << 20
"""Limit of one submission as sent, about the broker's default record limit. Larger inputs belong in provider files."""

FIELDS_MAX = 64
"""Top-level fields of a request to Backstop, not of its `request`. Bounded, as each unknown field makes an error."""

REQUEST_VALUES_MAX = 30_000
"""Values and field names of one submission: enough for a conversation of 2,500 messages, or 128 tools of 200 values
each. A value costs about a microsecond at each of several steps, so this bounds for how long one submission delays the
others. A string is one value, whatever its length.
"""

REQUEST_DEPTH_MAX = 100
"""Limit of nested objects and lists. Lower than `schemas.codec.DEPTH_MAX`, as the request is stored inside records."""


def _number(value: Any) -> Any:
    """Refuse strings and booleans, which pydantic would convert to numbers."""
    if isinstance(value, bool | str):
        raise ValueError("must be a whole number")  # noqa: TRY004 - pydantic wants ValueError
    return value


NUMBER = BeforeValidator(_number)


def _dollars(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("must be a number of dollars")  # noqa: TRY004 - pydantic wants ValueError
    exact = Decimal(str(value))
    # Beyond all caps nothing is rounded, as digits may be without end.
    return exact.quantize(USD_STEP) if exact.is_finite() and abs(exact) <= COST_USD_MAX else exact


USD_STEP = Decimal("0.000001")
UsdCap = Annotated[
    Decimal, Field(ge=USD_STEP, le=COST_USD_MAX, allow_inf_nan=False), BeforeValidator(_dollars),
    PlainSerializer(float, when_used="json"),
    WithJsonSchema({"type": "number", "minimum": float(USD_STEP), "maximum": COST_USD_MAX}),
]  # fmt: skip
"""Dollars, to the millionth."""
SessionId = Annotated[str, StringConstraints(pattern=r"^[.]*[A-Za-z0-9_:\-][A-Za-z0-9_.:\-]*$", max_length=128)]

Tag = Annotated[str, StringConstraints(min_length=1, max_length=64)]


Included = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


_REQUEST_SCHEMA: dict[str, Any] = {
    "required": ["model"],
    "properties": {
        "model": {"type": "string", "minLength": 1, "maxLength": MODEL_CHARS_MAX},
        "background": {"const": True},
        "store": {"const": True},
        "stream": {"type": ["boolean", "null"]},
        "metadata": {
            "type": ["object", "null"],
            "maxProperties": METADATA_PAIRS_MAX,
            "propertyNames": {"maxLength": METADATA_NAME_CHARS_MAX, "not": {"enum": sorted(METADATA_OURS)}},
            "additionalProperties": {"type": "string", "maxLength": METADATA_VALUE_CHARS_MAX},
        },
    },
}
"""The JSON schema of the checks in `Submit._request_is_ours_to_run`."""


_BOTH_DEADLINES: dict[str, Any] = {
    "required": ["deadline_at_ms", "timeout_ms"],
    "properties": {"deadline_at_ms": {"type": "number"}, "timeout_ms": {"type": "number"}},
}


BEGINS_TOO_LATE = (
    f"not_before_ms must be less than {TIMEOUT_MS_MAX // 86_400_000} days ahead: no deadline of a job is later"
)


class _Deadlined(_Strict):
    """A request that ends by an instant, or after a duration."""

    model_config = ConfigDict(json_schema_extra={"not": _BOTH_DEADLINES})

    deadline_at_ms: Annotated[UnixMs, NUMBER] | None = None
    """Unix milliseconds. Give this or `timeout_ms`, not both; with neither, the ingress's default timeout applies."""
    timeout_ms: Annotated[int, Field(ge=TIMEOUT_MS_MIN, le=TIMEOUT_MS_MAX), NUMBER] | None = None

    @model_validator(mode="after")
    def _one_deadline(self) -> Self:
        if self.deadline_at_ms is not None and self.timeout_ms is not None:
            raise ValueError("give deadline_at_ms or timeout_ms, not both")
        return self


def _not_null(schema: dict[str, Any]) -> None:
    """For a field that may be left out: its JSON Schema does not offer null.

    With `SkipJsonSchema[None]` the field would be a union, whose errors name pydantic's branches.
    """
    schema |= schema.pop("anyOf")[0]


class FallbackGiven(_Strict):
    """The fallbacks of a job."""

    to: Annotated[tuple[FallbackChoice, ...], FailFast()] = Field(max_length=FALLBACKS_MAX)
    """In this order, each once; an empty list means none."""
    after_ms: Annotated[int, Field(ge=AFTER_MS_MIN, le=AFTER_MS_MAX), NUMBER] = AFTER_MS
    """How long creates of a model must have been held or failing before the job goes on with the next one."""


class Submit(_Deadlined):
    """Submit a job: run `request` (the body of `POST /responses`) until one result, by the deadline."""

    v: Annotated[Literal[1], NUMBER] = 1
    type: Literal["submit"] = "submit"
    job_id: GivenJobId | None = None
    request: dict[str, Any] = Field(json_schema_extra=_REQUEST_SCHEMA)
    retries_max: Annotated[int, Field(ge=0, le=RETRIES_MAX), NUMBER] | None = None
    """Retries granted after attempts that were or may have been paid: failed with usage, missing, stuck, unknown."""
    session_id: SessionId | None = None
    tags: Annotated[tuple[Tag, ...], FailFast()] = Field(default=(), max_length=16)
    priority: Priority | None = None
    """The class in which the job waits for its turn under the limits; `normal` if it is left out."""
    not_before_ms: Annotated[UnixMs, NUMBER] | None = None
    """Unix milliseconds before which the job does not begin. Its deadline must be later."""
    hedge: StrictBool | None = None
    """Whether the job may have a second attempt beside a slow one: the first to complete wins, and both cost tokens.
    Left out: as the operator set it."""
    fallback: FallbackGiven | None = Field(default=None, json_schema_extra=_not_null)
    """Other models, with which later attempts go out if the request's model refuses for good or is not served for long.
    Left out: as the operator set it."""
    max_tokens_spent: Annotated[int, Field(ge=1, le=TOKENS_MAX), NUMBER] | None = None
    """Tokens that all attempts of the job may use together, input and output. No further attempt begins that does not
    fit; an attempt that runs is not cut off."""
    max_cost_usd: UsdCap | None = None
    """The same in dollars, by the operator's list of prices. Refused where that has no price for the request."""

    @property
    def priority_or_normal(self) -> Priority:
        return self.priority or "normal"

    def begins_too_late(self, at_ms: int) -> bool:
        """Whether the job, submitted at `at_ms`, would end before it may begin: no deadline is further away."""
        return (self.not_before_ms or 0) >= at_ms + TIMEOUT_MS_MAX

    @model_validator(mode="after")
    def _begins_before_its_deadline(self) -> Self:
        deadline_ms = self.deadline_at_ms
        if self.not_before_ms is not None and deadline_ms is not None and self.not_before_ms >= deadline_ms:
            raise ValueError("not_before_ms must be earlier than deadline_at_ms")
        return self

    @model_validator(mode="after")
    def _two_attempts_do_no_harm(self) -> Self:
        harm = unhedgeable(self.request) if self.hedge else None
        if harm is not None:
            raise ValueError(f"hedge can't be true for this request: {harm}; leave hedge out or send false")
        return self

    @field_validator("request")
    @classmethod
    def _request_is_ours_to_run(cls, request: dict[str, Any]) -> dict[str, Any]:
        model = request.get("model")
        if not isinstance(model, str) or not 1 <= len(model) <= MODEL_CHARS_MAX:
            raise ValueError(
                f"request.model must be the name of a model, a string of 1 to {MODEL_CHARS_MAX} characters"
            )
        for field in ("background", "store"):
            if request.get(field, True) is not True:
                raise ValueError(f"request.{field} is set to true by Backstop; leave it out or send true")
        stream = request.get("stream")
        if stream is not None and not isinstance(stream, bool):
            raise ValueError("request.stream must be true or false")
        if deeper_than(request, REQUEST_DEPTH_MAX):
            raise ValueError(f"request is nested deeper than {REQUEST_DEPTH_MAX} levels")
        _check_metadata(request.get("metadata"))
        return request


class Cancel(_Strict):
    """End the job at once with the outcome `cancelled`. Its running responses are cancelled at the provider."""

    v: Literal[1] = 1
    type: Literal["cancel"]
    job_id: GivenJobId
    reason: str | None = Field(default=None, max_length=200)


class Adopt(_Deadlined):
    """Adopt a response that an application created itself: watch it until one result, by the deadline."""

    response_id: ResponseId
    """The provider's id of the response."""
    include: Annotated[tuple[Included, ...], FailFast()] = Field(default=(), max_length=16)
    """`include` of the create: also sent with each poll."""
    session_id: SessionId | None = None
    tags: Annotated[tuple[Tag, ...], FailFast()] = Field(default=(), max_length=16)


Request = Annotated[Submit | Cancel, Field(discriminator="type")]
REQUEST: TypeAdapter[Submit | Cancel] = TypeAdapter(Request)


def _check_metadata(metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise ValueError("request.metadata must be an object of strings")  # noqa: TRY004 - pydantic wants ValueError
    if len(metadata) > METADATA_PAIRS_MAX:
        raise ValueError(
            f"request.metadata has {len(metadata)} pairs and may have {METADATA_PAIRS_MAX}: the provider takes 16, and "
            "Backstop adds 3 (backstop_job, backstop_attempt, backstop_tenant) to find a response again; put several "
            "values into one"
        )
    for name, value in metadata.items():
        if name in METADATA_OURS:
            raise ValueError(f"request.metadata.{name} is set by Backstop; use another name")
        if len(name) > METADATA_NAME_CHARS_MAX or not isinstance(value, str) or len(value) > METADATA_VALUE_CHARS_MAX:
            raise ValueError(f"request.metadata.{name[:64]}: names up to 64 and string values up to 512 characters")
