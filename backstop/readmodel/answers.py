"""What the reads answer with: the shape of each answer. Pure. What is not named here is not shown."""

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from schemas.base import FoundBy, Usage
from schemas.results import AttemptBrief, Reason, Timings
from schemas.statuses import JobOutcome, JobStatus

_DOCUMENTED: Final = ConfigDict(use_attribute_docstrings=True)


@with_config(_DOCUMENTED)
class JobView(TypedDict):
    """A job as it is now. Times are unix milliseconds; what has no value is left out."""

    object: Literal["job"]
    job_id: str
    status: JobStatus
    terminal: bool
    """Whether it has ended, and its result is there."""
    model: NotRequired[str]
    session_id: NotRequired[str]
    tags: list[str]
    submitted_at_ms: int
    updated_at_ms: int
    deadline_at_ms: NotRequired[int]
    next_action_at_ms: NotRequired[int]
    """When Backstop does something about it next."""
    finished_at_ms: NotRequired[int]
    attempts: int
    found_by: NotRequired[FoundBy]
    """What told of the end."""
    version: int
    """Never falls; 0 for a job that was accepted and has not been read from the log yet."""


@with_config(_DOCUMENTED)
class ResultView(TypedDict):
    """How a job ended."""

    outcome: JobOutcome
    reason: NotRequired[Reason]
    usage: NotRequired[Usage]
    found_by: NotRequired[FoundBy]
    timings: Timings
    attempts: list[AttemptBrief]
    rejections: int
    response_url: NotRequired[str]
    """Where the provider's response object is."""
    response: NotRequired[Any]
    """The provider's response object, where it is not too large."""
    response_missing: NotRequired[bool]
    """It was there, and is not kept any more."""


@with_config(_DOCUMENTED)
class JobEvent(TypedDict):
    """One server-sent event."""

    id: str
    """Resumes after this event, as `Last-Event-ID`."""
    event: Literal["job", "gap"]
    data: Annotated[str, Field(json_schema_extra={"contentMediaType": "application/json"})]
    """Of `job`: a JobView. Of `gap`: `{"reason"}`, which is `trimmed`, `rebuilt` or `unreadable`."""


@with_config(_DOCUMENTED)
class LateUsageView(TypedDict):
    """Tokens of an attempt that the result does not count: it was cancelled, given up, or turned up after the end."""

    attempt: int
    response_id: str
    usage: Usage
    estimated: NotRequired[bool]
    """Reckoned from the output that was seen, as the provider told no usage."""


@with_config(_DOCUMENTED)
class JobWithResult(JobView):
    """A job as it is now, with its result once it has ended."""

    result: NotRequired[ResultView]
    late_usage: NotRequired[list[LateUsageView]]
    """What was heard of after the result was made. `usage` of the result and all of these are what the job cost."""


class JobPage(TypedDict):
    """Jobs, newest first. Without a `next_cursor` there are no more; with one a page may be short, where few jobs are as asked for."""

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
    """One fact, and where it stands."""

    at_ms: int
    kind: str
    summary: dict[str, Any]
    """Of the fact, without prompts and outputs."""
    topic: str
    partition: int
    offset: int


@with_config(_DOCUMENTED)
class TimelineView(TypedDict):
    """The facts of a job in the order of their times."""

    object: Literal["timeline"]
    job_id: str
    status: JobStatus
    entries: list[EntryView]
    cut: bool
    """Whether there may be more."""
