"""The shapes of the read API's answers. Pure. A field that is not named here is not shown."""

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from backstop.readmodel.costs import JobCostView
from schemas.base import FoundBy, Priority, Usage
from schemas.fallbacks import FallbackBrief
from schemas.results import AttemptBrief, HedgeBrief, Reason, Timings
from schemas.statuses import JobOutcome, JobStatus, WaitsFor

_DOCUMENTED: Final = ConfigDict(use_attribute_docstrings=True)


class BecauseView(TypedDict):
    """A reason: a short code, and a sentence."""

    code: str
    message: str


@with_config(_DOCUMENTED)
class TurnView(TypedDict):
    """Where a job stands among the tenant's jobs of the same model and priority."""

    reason: NotRequired[str]
    """What the last of these jobs to begin was short of; `turn`: of nothing. Absent if none began yet."""
    priority: str
    place: int
    """Counted up to 10,000, by submission. Retries and jobs whose deadline is near may go first."""
    waiting: int
    """How many of these jobs wait, counted up to 10,000."""
    about_ms: NotRequired[int]
    """About how long until its turn, by the pace of the last grants. Absent if none came within ten minutes."""


WaitingView = TypedDict(
    "WaitingView",
    {
        "for": Annotated[
            WaitsFor,
            Field(
                description="`log`: the job is accepted, and its facts have not been read yet. `turn`: its turn "
                "under the limits. `acceptance`: the answer to its create. `webhook`: a webhook or the next poll. "
                "`poll`: a poll that confirms what a webhook told. `adoption`: a sign of a create of unknown outcome. "
                "`retry`: the time of its next attempt. `lane`: an open lane of its model. `operator`: the "
                "account at the provider to be mended. `deadline`: nothing but a late response. `result`: its "
                "record on `results`. `worker`: a worker for its partition. "
                "`resume`: the end of a pause of its creates, by an operator or a budget."
            ),
        ],
        "since_ms": int,
        "until_ms": NotRequired[
            Annotated[int, Field(description="When Backstop acts next, if nothing happens before.")]
        ],
        "because": BecauseView,
        "turn": NotRequired[
            Annotated[TurnView, Field(description="Where the job stands, if it waits for its turn under the limits.")]
        ],
    },
)
"""What an open job waits for."""


@with_config(_DOCUMENTED)
class JobView(TypedDict):
    """A job's current state. Times are Unix milliseconds; a field without a value is left out."""

    object: Literal["job"]
    job_id: str
    status: JobStatus
    terminal: bool
    """Whether the job has ended and its result is available."""
    model: NotRequired[str]
    session_id: NotRequired[str]
    tags: list[str]
    submitted_at_ms: int
    updated_at_ms: int
    deadline_at_ms: NotRequired[int]
    priority: NotRequired[Priority]
    """The class in which the job waits for its turns, where limits or its submission name one."""
    retry_of: NotRequired[str]
    """The ended job whose request this job repeats."""
    next_action_at_ms: NotRequired[int]
    """When Backstop acts on the job next."""
    waiting: NotRequired[WaitingView]
    """What the job waits for. Left out once it has ended."""
    reason: NotRequired[BecauseView]
    """Why the job ended as it did. Left out of an open job, and of a plain completion."""
    finished_at_ms: NotRequired[int]
    attempts: int
    found_by: NotRequired[FoundBy]
    """What revealed the end."""
    version: int
    """Never decreases; 0 for an accepted job that has not been read from the log yet."""


@with_config(_DOCUMENTED)
class ResultView(TypedDict):
    """How the job ended."""

    outcome: JobOutcome
    reason: NotRequired[Reason]
    usage: NotRequired[Usage]
    found_by: NotRequired[FoundBy]
    timings: Timings
    attempts: list[AttemptBrief]
    rejections: int
    hedge: NotRequired[HedgeBrief]
    """A second attempt that was begun beside a slow one. Left out if the job had none."""
    fallbacks: NotRequired[list[FallbackBrief]]
    """Other models that the job went on with, in order. Left out if there were none."""
    erased_at_ms: NotRequired[int]
    """When the job was erased: its request, response and texts are gone. Left out if it was not."""
    response_url: NotRequired[str]
    """The URL of the provider's response object."""
    response: NotRequired[Any]
    """The provider's response object, if it is not too large."""
    response_missing: NotRequired[bool]
    """True if the response object existed and is no longer stored."""


@with_config(_DOCUMENTED)
class JobEvent(TypedDict):
    """One server-sent event."""

    id: str
    """As `Last-Event-ID`, resumes after this event."""
    event: Literal["job", "gap"]
    data: Annotated[str, Field(json_schema_extra={"contentMediaType": "application/json"})]
    """For `job`: a JobView. For `gap`: `{"reason"}` with `trimmed`, `rebuilt` or `unreadable`."""


@with_config(_DOCUMENTED)
class LateUsageView(TypedDict):
    """Tokens that the result does not count: of an attempt that was
    cancelled or abandoned, or that appeared after the end.
    """

    attempt: int
    response_id: str
    usage: Usage
    estimated: NotRequired[bool]
    """Estimated from the output seen, because the provider reported no usage."""


@with_config(_DOCUMENTED)
class JobWithResult(JobView):
    """A job's current state, with its result once the job has ended."""

    cost: NotRequired[JobCostView]
    """What the job's attempts used and cost so far. Left out while no attempt can have reached the provider."""
    result: NotRequired[ResultView]
    late_usage: NotRequired[list[LateUsageView]]
    """Usage learned after the result was made. The job cost `usage` of the result plus all of these."""


class JobPage(TypedDict):
    """Jobs, newest first. Without `next_cursor` there are no more. With it a page may be short, if few jobs match."""

    object: Literal["list"]
    data: list[JobView]
    next_cursor: NotRequired[str]


class SessionPage(TypedDict):
    """The jobs of a session, newest first."""

    object: Literal["session"]
    session_id: str
    data: list[JobView]
    next_cursor: NotRequired[str]


@with_config(_DOCUMENTED)
class EntryView(TypedDict):
    """One fact and its place in the logs."""

    at_ms: int
    kind: str
    summary: dict[str, Any]
    """Fields of the fact, without prompts and outputs."""
    topic: str
    partition: int
    offset: int


@with_config(_DOCUMENTED)
class TimelineView(TypedDict):
    """The facts of a job, ordered by time."""

    object: Literal["timeline"]
    job_id: str
    status: JobStatus
    entries: list[EntryView]
    truncated: bool
    """Whether there may be more entries."""
