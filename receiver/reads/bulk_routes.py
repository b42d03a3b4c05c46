"""The declaration of `POST /v1/jobs/cancel`: many jobs, first as a plan, then in batches."""

from typing import Annotated, Any, Final, Literal, NotRequired, Self

from pydantic import BaseModel, ConfigDict, FailFast, Field, StrictBool, StringConstraints, model_validator, with_config
from typing_extensions import TypedDict

from backstop.runtime.http.routes import Answer, Route
from receiver.reads.declarations import AWAY, FILTER_CHARS_MAX, PageMark
from schemas.base import StampMs, TenantId
from schemas.pauses import By
from schemas.requests import NUMBER, GivenJobId, SessionId
from schemas.statuses import OpenJobStatus

_DOCUMENTED: Final = ConfigDict(use_attribute_docstrings=True)

BATCH_MAX: Final = 200
IDS_MAX: Final = 500
PLAN_JOBS_MAX: Final = 10_000
"""Jobs that a plan counts; of more it says so."""

Wanted = Annotated[str, StringConstraints(min_length=1, max_length=FILTER_CHARS_MAX, pattern=r"^[^\x00]+$")]
CancelReason = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"\S")]


def _given(name: str) -> Any:
    """The JSON schema of a body that names `name`."""
    kinds = {"ids": {"type": "array", "minItems": 1}, "status": {"type": "array", "minItems": 1}}
    return {"required": [name], "properties": {name: kinds.get(name, {"type": ["string", "number"]})}}


_FILTERS: Final[Any] = [_given(name) for name in ("session_id", "tag", "model", "status", "since_ms")]
_EVERYTHING: Final[Any] = {"required": ["everything"], "properties": {"everything": {"const": True}}}
_EXECUTE: Final[Any] = {"required": ["execute"], "properties": {"execute": {"const": True}}}
_REASONED: Final[Any] = [{"not": _EXECUTE}, _given("why")]


class CancelManyBody(BaseModel):
    """Which jobs: those that fit all given fields, or `everything`. Without `execute` nothing is changed."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True,
        json_schema_extra={"oneOf": [_given("ids"), {"anyOf": _FILTERS}, _EVERYTHING], "anyOf": _REASONED},
    )  # fmt: skip

    ids: Annotated[tuple[GivenJobId, ...], FailFast()] = Field(default=(), max_length=IDS_MAX)
    """These jobs, without any other field of a filter."""
    session_id: SessionId | None = None
    tag: Wanted | None = None
    model: Wanted | None = None
    status: Annotated[tuple[OpenJobStatus, ...], FailFast()] = Field(default=(), max_length=10)
    """Only jobs with one of these statuses. Default: all open ones."""
    since_ms: Annotated[StampMs, NUMBER] | None = None
    """Only jobs submitted at or after this time."""
    tenant: TenantId | None = None
    """Another tenant's jobs: needs the scope `admin`."""
    everything: StrictBool = False
    """All open jobs of the tenant."""
    execute: StrictBool = False
    """Cancel a batch of them. Without it: the plan."""
    why: CancelReason | None = None
    """The reason, kept with each job; required with `execute`."""
    by: By | None = None
    """The person that decides, kept with each job."""
    cursor: PageMark | None = None
    """The `next_cursor` of the previous batch."""
    limit: Annotated[int, Field(ge=1, le=BATCH_MAX), NUMBER] = BATCH_MAX
    """Jobs of a batch, at most."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        filtered = any(
            (self.session_id, self.tag, self.model, self.status, self.since_ms is not None)
        )  # fmt: skip
        if bool(self.ids) + filtered + self.everything != 1:
            raise ValueError("give ids, or session_id, tag, model, status or since_ms, or everything: true alone")
        if self.execute and self.why is None:
            raise ValueError("give why with execute; it is kept with each job")
        return self


@with_config(_DOCUMENTED)
class CancelPlanView(TypedDict):
    """What a cancel would change, as the read model knows it."""

    object: Literal["cancel_plan"]
    count: int
    by_status: dict[str, int]
    by_model: dict[str, int]
    running: int
    """Jobs with a response that runs or may run: their cancel is sent to the provider. The others cost nothing more."""
    running_cost_usd: NotRequired[str]
    """What the running ones would cost to their end, by the mean of their models' attempts in the last 30 days. What
    they used before the cancel may be charged."""
    waiting_cost_usd: NotRequired[str]
    """The same for the others: a cancel saves it."""
    without_estimate: int
    """Jobs whose model has no priced attempt in the last 30 days; they are in no estimate."""
    sample: list[str]
    not_found: NotRequired[list[str]]
    """Of the given ids, those that are no job of the tenant."""
    not_open: NotRequired[list[str]]
    """Of the given ids, those whose job has ended."""
    cut: bool
    """There are more jobs than were counted."""


@with_config(_DOCUMENTED)
class CancelBatchView(TypedDict):
    """The log has the cancels of these jobs. Each ends with what happens first: its end, or the cancel."""

    object: Literal["cancel_batch"]
    count: int
    job_ids: list[str]
    next_cursor: NotRequired[str]
    """Present while there may be more jobs: send it as `cursor`."""


CANCEL_MANY: Final = Route(
    "POST", "/v1/jobs/cancel", name="cancelJobs", access="operate", body=CancelManyBody,
    says="Cancel many jobs: without `execute` the plan, with it one batch after the other.\n\nEach job gets a fact of "
    "its own, and a repeat changes nothing: a run that was broken off may begin anew. Jobs of the last second may not "
    "be seen yet.",
    answers=(Answer(200, "The plan, or the batch that was cancelled.", CancelPlanView | CancelBatchView),),
    problems={403: ("scope_missing",), 503: ("log_unavailable", *AWAY[503])},
)  # fmt: skip
