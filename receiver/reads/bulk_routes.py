"""The declarations of `POST /v1/jobs/cancel`, `/change` and `/retry`: many jobs, first as a plan, then in batches."""

from typing import Annotated, Any, Final, Literal, NotRequired, Self, get_args

from pydantic import BaseModel, ConfigDict, FailFast, Field, StrictBool, StringConstraints, model_validator, with_config
from typing_extensions import TypedDict

from backstop.runtime.http.routes import Answer, Route
from receiver.reads.declarations import AWAY, FILTER_CHARS_MAX, PageMark
from schemas.base import Priority, StampMs, TenantId, UnixMs
from schemas.pauses import By
from schemas.requests import NUMBER, TIMEOUT_MS_MAX, TIMEOUT_MS_MIN, GivenJobId, SessionId
from schemas.statuses import OpenJobStatus

_DOCUMENTED: Final = ConfigDict(use_attribute_docstrings=True)

BATCH_MAX: Final = 200
RETRY_BATCH_MAX: Final = 50
"""Each retry is a submission with its whole request."""
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


_CHOSEN: Final[Any] = [_given("ids"), {"anyOf": _FILTERS}, _EVERYTHING]

RetriedStatus = Literal["failed", "expired", "cancelled", "incomplete"]
"""The outcomes of jobs that may be retried. A rejected job has no request, a completed one its answer."""

RETRIED: Final[tuple[RetriedStatus, ...]] = get_args(RetriedStatus)


class ManyBody(BaseModel):
    """Which jobs: those that fit all given fields, or `everything`. Without `execute` nothing is changed."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True,
        json_schema_extra={"oneOf": _CHOSEN, "anyOf": _REASONED},
    )  # fmt: skip

    ids: Annotated[tuple[GivenJobId, ...], FailFast()] = Field(default=(), max_length=IDS_MAX)
    """These jobs, without any other field of a filter."""
    session_id: SessionId | None = None
    tag: Wanted | None = None
    model: Wanted | None = None
    since_ms: Annotated[StampMs, NUMBER] | None = None
    """Only jobs submitted at or after this time."""
    tenant: TenantId | None = None
    """Another tenant's jobs: needs the scope `admin`."""
    everything: StrictBool = False
    """All jobs of the tenant that have a fitting status."""
    execute: StrictBool = False
    """Act on a batch of them. Without it: the plan."""
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
            (self.session_id, self.tag, self.model, getattr(self, "status", ()), self.since_ms is not None)
        )  # fmt: skip
        if bool(self.ids) + filtered + self.everything != 1:
            raise ValueError("give ids, or session_id, tag, model, status or since_ms, or everything: true alone")
        if self.execute and self.why is None:
            raise ValueError("give why with execute; it is kept with each job")
        return self


class CancelManyBody(ManyBody):
    """Which jobs: those that fit all given fields, or `everything`. Without `execute` nothing is changed."""

    status: Annotated[tuple[OpenJobStatus, ...], FailFast()] = Field(default=(), max_length=10)
    """Only jobs with one of these statuses. Default: all open ones."""


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What fits both, as one schema: generators make no class of an `anyOf` within an `allOf`."""
    properties = {**one.get("properties", {}), **other["properties"]}
    return {**one, "required": [*one.get("required", ()), *other["required"]], "properties": properties}


_NEW_VALUES: Final[Any] = [
    _both(reasoned, _given(name)) for reasoned in _REASONED for name in ("priority", "deadline_at_ms")
]


class ChangeManyBody(ManyBody):
    """Which jobs, as in a cancel, and their new priority, deadline, or both."""

    model_config = ConfigDict(json_schema_extra={"oneOf": _CHOSEN, "anyOf": _NEW_VALUES})

    status: Annotated[tuple[OpenJobStatus, ...], FailFast()] = Field(default=(), max_length=10)
    """Only jobs with one of these statuses. Default: all open ones."""
    priority: Priority | None = None
    """The class in which they wait for their turns from now on."""
    deadline_at_ms: Annotated[UnixMs, NUMBER] | None = None
    """Unix milliseconds, at most seven days ahead. A time that has passed ends the jobs as expired."""

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.priority is None and self.deadline_at_ms is None:
            raise ValueError("give priority, deadline_at_ms or both")
        return self


class RetryManyBody(ManyBody):
    """Which ended jobs to repeat. Each repeat is a new job that names the ended one in `retry_of`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": _CHOSEN, "anyOf": _REASONED})

    status: Annotated[tuple[RetriedStatus, ...], FailFast()] = Field(default=(), max_length=10)
    """Only jobs that ended so. Default: `failed` and `expired`; of given ids all four."""
    timeout_ms: Annotated[int, Field(ge=TIMEOUT_MS_MIN, le=TIMEOUT_MS_MAX), NUMBER] | None = None
    """From the retry to its deadline. Default: as long as the ended job had."""
    priority: Priority | None = None
    """The class of the new jobs. Default: that of the ended job."""


class PlanView(TypedDict):
    """What each plan tells. Descriptions are fields' own, as docstrings of a base are not inherited."""

    count: int
    by_status: dict[str, int]
    by_model: dict[str, int]
    without_estimate: Annotated[
        int, Field(description="Jobs whose model has no priced attempt in the last 30 days; they are in no estimate.")
    ]
    sample: list[str]
    not_found: NotRequired[
        Annotated[list[str], Field(description="Of the given ids, those that are no job of the tenant.")]
    ]
    truncated: Annotated[bool, Field(description="There are more jobs than were counted.")]


class OpenPlanView(PlanView):
    """A plan for open jobs."""

    not_open: NotRequired[Annotated[list[str], Field(description="Of the given ids, those whose job has ended.")]]


@with_config(_DOCUMENTED)
class CancelPlanView(OpenPlanView):
    """What a cancel would change, as the read model knows it."""

    object: Literal["cancel_plan"]
    running: int
    """Jobs with a response that runs or may run: their cancel is sent to the provider. The others cost nothing more."""
    running_cost_usd: NotRequired[str]
    """What the running ones would cost to their end, by the mean of their models' attempts in the last 30 days. What
    they used before the cancel may be charged."""
    waiting_cost_usd: NotRequired[str]
    """The same for the others: a cancel saves it."""


@with_config(_DOCUMENTED)
class CancelBatchView(TypedDict):
    """The log has the cancels of these jobs. Each ends with what happens first: its end, or the cancel."""

    object: Literal["cancel_batch"]
    count: int
    job_ids: list[str]
    next_cursor: NotRequired[str]
    """Present while there may be more jobs: send it as `cursor`."""


@with_config(_DOCUMENTED)
class ChangePlanView(OpenPlanView):
    """What a change would do, as the read model knows it."""

    object: Literal["change_plan"]
    running: int
    """Jobs with a response that runs or may run. A new priority counts for their later attempts only."""
    unchanged: int
    """Jobs that have this priority and deadline already. They are not counted otherwise."""
    ending: int
    """Jobs that end at once as expired, as the new deadline has passed."""
    running_cost_usd: NotRequired[str]
    """What the running ones would cost to their end, by the mean of their models' attempts in the last 30 days."""
    waiting_cost_usd: NotRequired[str]
    """The same for the others."""


@with_config(_DOCUMENTED)
class ChangeBatchView(TypedDict):
    """The log has the changes of these jobs. Each counts unless the job ends before."""

    object: Literal["change_batch"]
    count: int
    unchanged: int
    job_ids: list[str]
    next_cursor: NotRequired[str]
    """Present while there may be more jobs: send it as `cursor`."""


@with_config(_DOCUMENTED)
class RetryPlanView(PlanView):
    """What a retry would submit, as the read model knows it."""

    object: Literal["retry_plan"]
    retried_before: int
    """Jobs that have a retry already. They are not counted otherwise, and get no second one."""
    cost_usd: NotRequired[str]
    """What the new jobs would cost, by the mean of their models' attempts in the last 30 days."""
    not_retried: NotRequired[list[str]]
    """Of the given ids, those whose job is open, completed or was rejected."""


@with_config(_DOCUMENTED)
class RetriedView(TypedDict):
    """A new job."""

    job_id: str
    retry_of: str


@with_config(_DOCUMENTED)
class RetryBatchView(TypedDict):
    """The log has these new jobs."""

    object: Literal["retry_batch"]
    count: int
    retried_before: int
    jobs: list[RetriedView]
    without_request: NotRequired[list[str]]
    """Jobs whose request is not stored any more, or was never known (adopted responses). They were not retried."""
    refused: NotRequired[list[str]]
    """Jobs whose response was deleted, or whose request names what it may not name now. They were not retried."""
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

CHANGE_MANY: Final = Route(
    "POST", "/v1/jobs/change", name="changeJobs", access="operate", body=ChangeManyBody,
    says="Change priority and deadline of many open jobs: without `execute` the plan, with it one batch after the "
    "other.\n\nEach job gets a fact of its own, and a repeat changes nothing: a run that was broken off may begin "
    "anew.",
    answers=(Answer(200, "The plan, or the batch that was changed.", ChangePlanView | ChangeBatchView),),
    problems={403: ("scope_missing", "priority_not_allowed"), 503: ("log_unavailable", *AWAY[503])},
)  # fmt: skip

RETRY_MANY: Final = Route(
    "POST", "/v1/jobs/retry", name="retryJobs", access="operate", body=RetryManyBody,
    says="Repeat many ended jobs: without `execute` the plan, with it one batch after the other.\n\nEach repeat is a "
    "new job with the same request, under an id that is derived from the ended job's: a job gets one retry, however "
    "often this is sent. A retry may itself be retried. Quotas of the tenant count.",
    answers=(Answer(200, "The plan, or the batch that was submitted.", RetryPlanView | RetryBatchView),),
    problems={
        403: ("scope_missing", "priority_not_allowed"), 409: ("job_id_taken",),
        429: ("open_jobs_exceeded", "token_budget_exceeded"),
        503: ("log_unavailable", "busy", *AWAY[503]),
    },
)  # fmt: skip
