"""The declarations of `/v1/lanes`: bodies, answers and routes."""

from typing import Any, Final, Literal, NotRequired, Self

from pydantic import BaseModel, ConfigDict, StrictBool, model_validator, with_config
from typing_extensions import TypedDict

from backstop.runtime.http.routes import Answer, Route
from schemas.base import TenantId
from schemas.pauses import Account, By, Model, PauseId, PauseScope, TagName, Why
from streams.policy.lanes import Breaks

_DOCUMENTED: Final = ConfigDict(use_attribute_docstrings=True)

LaneState = Literal["open", "paused"] | Breaks


class _Scoped(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    account: Account | None = None
    """Only the creates of this account, as `GET /v1/lanes` names it."""
    model: Model | None = None
    """Only creates that ask for this model, by its exact name."""
    tenant: TenantId | None = None
    """Only this tenant's creates. A key without `admin` always means its own tenant."""
    tag: TagName | None = None
    """Only creates of jobs with this tag."""
    by: By | None = None
    """The person who decides. Default: the id of the key."""
    why: Why
    """For all who ask why a job waits."""

    @property
    def scope(self) -> PauseScope:
        return PauseScope(account=self.account, model=self.model, tenant=self.tenant, tag=self.tag)


_NAMED: Final[list[Any]] = [
    {"required": [name], "properties": {name: {"type": "string"}}} for name in ("account", "model", "tenant", "tag")
]
_ALL: Final[Any] = {"required": ["everything"], "properties": {"everything": {"const": True}}}
_PAUSE: Final[Any] = {"required": ["pause_id"], "properties": {"pause_id": {"type": "string"}}}


class PauseBody(_Scoped):
    """Which creates to pause: those that fit all given fields, or `everything`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"anyOf": _NAMED}, _ALL]})

    everything: StrictBool = False
    """All creates: of all tenants with a key that has `admin`, else of the key's tenant."""
    unseen: StrictBool = False
    """Pause even though no stored job fits: without it a mistyped name is refused."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if (self.scope != PauseScope()) is self.everything:
            raise ValueError("give model, tenant, tag or account, or everything: true alone")
        return self


class ResumeBody(_Scoped):
    """Which pause to end: its id, or exactly what was paused."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"anyOf": _NAMED}, _ALL, _PAUSE]})

    pause_id: PauseId | None = None
    everything: StrictBool = False
    """The pause of everything."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.scope != PauseScope()) + self.everything + (self.pause_id is not None) != 1:
            raise ValueError("give pause_id, or everything: true, or model, tenant, tag or account as they were paused")
        return self


@with_config(_DOCUMENTED)
class PauseView(TypedDict):
    """A pause of creates."""

    object: Literal["pause"]
    id: str
    account: NotRequired[str]
    model: NotRequired[str]
    tenant: NotRequired[str]
    tag: NotRequired[str]
    budget: NotRequired[Literal["day", "month"]]
    """The budget that is used up, where no operator paused: creates go on by themselves. One that is resumed by hand is
    paused again."""
    since_ms: int
    by: str
    why: str
    resumed_by: NotRequired[str]
    """Present once the pause has ended."""


@with_config(_DOCUMENTED)
class LaneView(TypedDict):
    """A lane: a model of an account at the provider."""

    object: Literal["lane"]
    model: str
    account: NotRequired[str]
    """Absent where the lane had no trouble in the last hour."""
    state: LaneState
    """`held`: the provider refuses the account. `broken`, `limited`: creates fail in a row. `paused`: an operator has
    paused it."""
    since_ms: NotRequired[int]
    because: NotRequired[str]
    next_probe_at_ms: NotRequired[int]
    probes: NotRequired[int]
    """Probes that failed since the lane closed."""
    open_jobs: NotRequired[dict[str, int]]
    """The tenant's open jobs of the model by status."""


@with_config(_DOCUMENTED)
class LanesView(TypedDict):
    """Lanes with open jobs of the tenant; with `admin` also all that are closed."""

    object: Literal["lanes"]
    at_ms: int
    data: list[LaneView]
    pauses: list[PauseView]
    """The pauses in force that hold creates of the tenant; with `admin` all."""
    truncated: bool
    """Not all open jobs were counted."""


_OFF: Final = {503: ("log_unavailable",)}
LIST_LANES: Final = Route(
    "GET", "/v1/lanes", name="listLanes", access="read",
    says="The lanes (models at the provider) that jobs wait for: open, held, broken, limited or paused; and the pauses "
    "in force.",
    answers=(Answer(200, "The lanes.", LanesView),), problems={503: ("log_unavailable", "reads_unavailable")},
)  # fmt: skip
PAUSE: Final = Route(
    "POST", "/v1/lanes/pause", name="pauseLanes", access="operate", body=PauseBody,
    says="Pause creates: their jobs wait, with this reason, until the pause is resumed.\n\nWorkers act on it within "
    "two seconds. Responses that run are not touched, and a job whose deadline passes still expires. A key without "
    "`admin` pauses its own tenant's creates only.",
    answers=(Answer(200, "The pause is in force.", PauseView),),
    problems={403: ("scope_missing",), 409: ("already_paused", "nothing_to_pause", "too_many_pauses"), **_OFF},
)  # fmt: skip
RESUME: Final = Route(
    "POST", "/v1/lanes/resume", name="resumeLanes", access="operate", body=ResumeBody,
    says="End a pause: the jobs that it held begin along a ramp of a minute.\n\nA job that another pause holds waits "
    "on.",
    answers=(Answer(200, "The pause has ended.", PauseView),),
    problems={403: ("scope_missing",), 404: ("pause_not_found",), **_OFF},
)  # fmt: skip
