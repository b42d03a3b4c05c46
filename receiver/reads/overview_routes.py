"""The declarations of the overview: what is asked, and what is answered."""

from typing import Annotated, Final, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from backstop.readmodel.figures import StatsView
from backstop.runtime.http.routes import WHOLE, Answer, Query, Route
from receiver.reads.declarations import AWAY, LIMIT, LIMIT_MAX, SINCE_MS_MAX, PageMark
from schemas.dead_letters import DeadReason, Resolution
from schemas.statuses import OpenJobStatus

_DOCUMENTED: Final = ConfigDict(use_attribute_docstrings=True)

FindingCode = Literal[
    "provider_refuses", "provider_unavailable", "jobs_overdue", "jobs_without_next_action", "jobs_finishing_too_long",
    "dead_letters", "webhooks_missed",
]  # fmt: skip
Since = Annotated[int, Field(ge=0, le=SINCE_MS_MAX), WHOLE]


@with_config(_DOCUMENTED)
class FindingView(TypedDict):
    """Something that should not be as it is."""

    code: FindingCode
    count: int
    of: NotRequired[int]
    """Out of so many, where a share is what matters."""
    job_ids: NotRequired[list[str]]
    """Some of the jobs."""
    because: NotRequired[str]
    """The most frequent reason, in the provider's words."""


@with_config(_DOCUMENTED)
class AttentionView(TypedDict):
    """What needs attention; nothing does where `findings` is empty."""

    object: Literal["attention"]
    at_ms: int
    span_ms: int
    """How far back it looked, for what has a time."""
    findings: list[FindingView]
    open: dict[OpenJobStatus, int]
    """Open jobs by status."""


class OriginView(TypedDict):
    """Where a record stood."""

    topic: str
    partition: int
    offset: int


@with_config(_DOCUMENTED)
class DeadLetterView(TypedDict):
    """A record that could not be taken, set aside."""

    object: Literal["dead_letter"]
    id: str
    at_ms: int
    tenant: NotRequired[str]
    """Not there where nobody can say whose it is."""
    component: str
    reason: DeadReason
    detail: str
    origin: NotRequired[OriginView]
    key: NotRequired[str]
    size_bytes: NotRequired[int]
    preview: NotRequired[str]
    """The beginning of its value, printable characters only; for the scope `operate`."""
    resolution: NotRequired[Resolution]
    resolved_at_ms: NotRequired[int]


class DeadLetterPage(TypedDict):
    """Dead letters, newest first. Without a `next_cursor` there are no more."""

    object: Literal["list"]
    data: list[DeadLetterView]
    next_cursor: NotRequired[str]


class StatsQuery(Query):
    since: Since | None = Field(
        default=None, description="Jobs that ended since then, in unix milliseconds; a day if unset."
    )


class DeadLetterQuery(Query):
    state: Literal["open", "all"] = Field(
        default="open", description="`open`: those about which nothing was decided yet."
    )
    reason: DeadReason | None = Field(default=None, description="Only those set aside for this.")
    since: Since | None = Field(default=None, description="Only those set aside since then, in unix milliseconds.")
    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX), WHOLE] = Field(default=LIMIT, description="Letters of one page.")
    cursor: PageMark | None = Field(default=None, description="The `next_cursor` of the page before.")


GET_ATTENTION: Final = Route(
    "GET", "/v1/attention", name="getAttention", access="read", problems=AWAY,
    says="What needs attention: jobs that wait for a person or for the provider, jobs that nothing moves any more, dead letters and missed webhooks of the last hour.",
    answers=(Answer(200, "The findings, worst first.", AttentionView),),
)  # fmt: skip
GET_STATS: Final = Route(
    "GET", "/v1/stats", name="getStats", access="read", query=StatsQuery, problems=AWAY,
    says="How long jobs took, by model, and how their ends were found.\n\nOf the last 10,000 that ended at most: `cut` says "
    "whether there were more, and `since_ms` from when on they are counted.",
    answers=(Answer(200, "The figures.", StatsView),),
)  # fmt: skip
LIST_DEAD_LETTERS: Final = Route(
    "GET", "/v1/dead-letters", name="listDeadLetters", access="read", query=DeadLetterQuery, problems=AWAY,
    says="Records that could not be taken, newest first, in pages.\n\nThose of which nobody can say whose they are need the "
    "scope `admin`.",
    answers=(Answer(200, "A page of dead letters.", DeadLetterPage),),
)  # fmt: skip
