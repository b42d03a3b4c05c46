"""A row as clients see it, in the shapes of `backstop.readmodel.answers`. Pure."""

from typing import Any, Protocol, cast

import orjson

from backstop.readmodel.answers import BecauseView, EntryView, JobView, LateUsageView, ResultView
from backstop.readmodel.rows import JobRow, LateUsage, TimelineEntry, Wait
from backstop.readmodel.waits import UNSEEN, Sight, waiting_view
from schemas.job_ids import own_job_id


class TakenJob(Protocol):
    """A job accepted by this process's ingress."""

    @property
    def submitted_at_ms(self) -> int: ...
    @property
    def model(self) -> str | None: ...
    @property
    def session_id(self) -> str | None: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def deadline_at_ms(self) -> int | None: ...


def job_view(row: JobRow, now_ms: int, sight: Sight = UNSEEN, held: Wait | None = None) -> JobView:
    """A job without its result; fields without a value are left out.

    `sight`: of the response that runs. `held`: what holds the job up before anything
    else can, such as a partition without a worker.
    """
    wait = row.wait
    waiting = None if wait is None else waiting_view(wait, now_ms, row.deadline_at_ms, sight, held, row.tenant)
    view: dict[str, Any] = {
        "object": "job",
        "job_id": own_job_id(row.tenant, row.job_id),
        "status": row.status,
        "terminal": row.terminal,
        "model": row.model,
        "session_id": row.session_id,
        "tags": list(row.tags),
        "submitted_at_ms": row.submitted_at_ms,
        "updated_at_ms": row.updated_at_ms,
        "deadline_at_ms": row.deadline_at_ms,
        "priority": row.priority,
        "retry_of": None if row.retry_of is None else own_job_id(row.tenant, row.retry_of),
        "next_action_at_ms": None if waiting is None else waiting.get("until_ms"),
        "waiting": waiting,
        "reason": _reason(row),
        "finished_at_ms": row.finished_at_ms,
        "attempts": row.attempts,
        "found_by": row.found_by,
        "version": row.version,
    }
    return _without_none(view)


def taken_view(job_id: str, taken: TakenJob) -> JobView:
    """A job without a row yet, under the caller's own id: what its first row will show, at version 0."""
    view: dict[str, Any] = {
        "object": "job",
        "job_id": job_id,
        "status": "submitting",
        "terminal": False,
        "model": taken.model,
        "session_id": taken.session_id,
        "tags": list(taken.tags),
        "submitted_at_ms": taken.submitted_at_ms,
        "updated_at_ms": taken.submitted_at_ms,
        "deadline_at_ms": taken.deadline_at_ms,
        "waiting": waiting_view(not_read(taken.submitted_at_ms), taken.submitted_at_ms),
        "attempts": 0,
        "version": 0,
    }
    return _without_none(view)


def not_read(since_ms: int) -> Wait:
    """What a job waits for whose facts the read model has not read yet."""
    return Wait(
        "log", since_ms, None, "accepted", "the job is accepted, and its facts have not been read from the log yet"
    )


def _reason(row: JobRow) -> BecauseView | None:
    return None if row.reason_code is None else {"code": row.reason_code, "message": row.reason_message or ""}


def result_view(record: dict[str, Any]) -> ResultView:
    """The record on `results`, without envelope and body."""
    shown = (
        "outcome",
        "reason",
        "usage",
        "found_by",
        "timings",
        "attempts",
        "rejections",
        "hedge",
        "fallbacks",
        "erased_at_ms",
    )
    return cast("ResultView", {name: record[name] for name in shown if name in record})


def late_usage_view(late: LateUsage) -> LateUsageView:
    usage: Any = late.usage.model_dump(mode="json")  # The type of the field is the form of this JSON.
    view: LateUsageView = {"attempt": late.attempt, "response_id": late.response_id, "usage": usage}
    return {**view, "estimated": True} if late.estimated else view


def timeline_view(entry: TimelineEntry) -> EntryView:
    return {
        "at_ms": entry.at_ms,
        "kind": entry.kind,
        "summary": orjson.loads(entry.summary),
        "topic": entry.position.topic,
        "partition": entry.position.partition,
        "offset": entry.position.offset,
    }


def _without_none(view: dict[str, Any]) -> JobView:
    return cast("JobView", {name: value for name, value in view.items() if value is not None})
