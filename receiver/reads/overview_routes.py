"""The declarations of the overview: parameters, answers and routes."""

from typing import Annotated, Final, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from backstop.readmodel.figures import StatsView
from backstop.readmodel.reasons import ReasonsView
from backstop.runtime.http.routes import WHOLE, Answer, Query, Route
from receiver.reads.declarations import AWAY, LIMIT, LIMIT_MAX, SINCE_MS_MAX, PageMark
from schemas.dead_letters import DeadReason, Resolution
from schemas.statuses import OpenJobStatus

_DOCUMENTED: Final = ConfigDict(use_attribute_docstrings=True)

FindingCode = Literal[
    "broker_away", "topics_missing", "workers_missing", "workers_behind", "retention_near", "process_in_trouble",
    "blob_stores_differ", "provider_refuses", "provider_unavailable", "creates_paused", "jobs_failing", "runs_slow",
    "tenant_floods", "jobs_overdue", "jobs_without_next_action", "jobs_finishing_too_long", "dead_letters",
    "webhooks_missed", "keys_expire_soon", "budget_nearly_spent",
]  # fmt: skip
Since = Annotated[int, Field(ge=0, le=SINCE_MS_MAX), WHOLE]


@with_config(_DOCUMENTED)
class FindingView(TypedDict):
    """A condition that needs attention."""

    code: FindingCode
    count: int
    of: NotRequired[int]
    """The total that `count` is a part of."""
    job_ids: NotRequired[list[str]]
    """Ids of some of the jobs."""
    because: NotRequired[str]
    """The most frequent reason, as the provider states it; of failing jobs, their reasons with their numbers; of
    budgets, what was spent; of pauses, by whom and why; of blob stores, what to do; of partitions and keys, which; of
    dead letters, their reasons and topics; of the rest, what was found."""


@with_config(_DOCUMENTED)
class AttentionView(TypedDict):
    """What needs attention; an empty `findings` means nothing does."""

    object: Literal["attention"]
    at_ms: int
    span_ms: int
    """The period before `at_ms` in which dead letters and missed webhooks are counted."""
    findings: list[FindingView]
    open: dict[OpenJobStatus, int]
    """Open jobs by status."""


class OriginView(TypedDict):
    """The position of a record."""

    topic: str
    partition: int
    offset: int


@with_config(_DOCUMENTED)
class DeadLetterView(TypedDict):
    """A record that could not be processed, set aside with its origin and the reason."""

    object: Literal["dead_letter"]
    id: str
    at_ms: int
    tenant: NotRequired[str]
    """Absent if the record does not tell its tenant."""
    component: str
    reason: DeadReason
    detail: str
    origin: NotRequired[OriginView]
    key: NotRequired[str]
    size_bytes: NotRequired[int]
    preview: NotRequired[str]
    """The beginning of the record's value, printable characters only; needs the scope `operate`."""
    resolution: NotRequired[Resolution]
    resolved_at_ms: NotRequired[int]


class DeadLetterPage(TypedDict):
    """Dead letters, newest first. The last page has no `next_cursor`."""

    object: Literal["list"]
    data: list[DeadLetterView]
    next_cursor: NotRequired[str]


class StatsQuery(Query):
    since: Since | None = Field(
        default=None,
        description="Jobs that ended at or after this time, in Unix milliseconds; the last 24 hours if unset.",
    )


class ReasonsQuery(Query):
    since: Since | None = Field(
        default=None,
        description="Jobs that ended at or after this time, in Unix milliseconds; the last 24 hours if unset.",
    )


class DeadLetterQuery(Query):
    state: Literal["open", "all"] = Field(default="open", description="`open`: only unresolved dead letters.")
    reason: DeadReason | None = Field(default=None, description="Only dead letters with this reason.")
    since: Since | None = Field(
        default=None, description="Only dead letters set aside at or after this time, in Unix milliseconds."
    )
    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX), WHOLE] = Field(
        default=LIMIT, description="Dead letters per page, at most."
    )
    cursor: PageMark | None = Field(default=None, description="The `next_cursor` of the previous page.")


GET_ATTENTION: Final = Route(
    "GET", "/v1/attention", name="getAttention", access="read", problems=AWAY,
    says="What needs attention: partitions that no worker holds or moves, processes that complain (of a full disk, for "
    "one), jobs that wait for the operator or the provider, jobs without progress, failed jobs, runs that take longer "
    "than usual, dead letters and missed webhooks of the last hour, keys that expire soon, and budgets that are nearly "
    "spent. With the scope `operate` also processes that use differing blob stores, with `admin` a tenant whose jobs "
    "are most of those that wait.",
    answers=(Answer(200, "The findings, worst first.", AttentionView),),
)  # fmt: skip
GET_STATS: Final = Route(
    "GET", "/v1/stats", name="getStats", access="read", query=StatsQuery, problems=AWAY,
    says="How long jobs took, by model, how their ends were found, and the course over time.\n\nAt most the 10,000 "
    "jobs that ended last are counted. `truncated` tells whether that limit was reached, `since_ms` the start of the "
    "period that is counted. The course also has the creates that the provider refused, and what attempts cost.",
    answers=(Answer(200, "The figures.", StatsView),),
)  # fmt: skip
GET_REASONS: Final = Route(
    "GET", "/v1/reasons", name="getReasons", access="read", query=ReasonsQuery, problems=AWAY,
    says="What open jobs wait for, and why jobs ended as they did: the same reasons together, the largest group "
    "first.\n\nAt most 2,000 open jobs and the 10,000 jobs that ended last are counted; `truncated` tells whether a "
    "limit was reached.",
    answers=(Answer(200, "The groups.", ReasonsView),),
)  # fmt: skip
LIST_DEAD_LETTERS: Final = Route(
    "GET", "/v1/dead-letters", name="listDeadLetters", access="read", query=DeadLetterQuery, problems=AWAY,
    says="Dead letters (records that could not be processed), newest first, in pages.\n\nDead letters without a known "
    "tenant need the scope `admin`.",
    answers=(Answer(200, "A page of dead letters.", DeadLetterPage),),
)  # fmt: skip
