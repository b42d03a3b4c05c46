"""Lists of jobs. None walks more rows than it shows × `WALKED_A_ROW`, whatever is asked for: a tenant's list must not hold up another's.

One filter is answered by an index that is in the list's order; what else is asked for is tested on each row of that index. Where few rows
pass, the page ends early and says where to go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from backstop.readmodel.database import Connection
from backstop.readmodel.rows import JobRow
from backstop.readmodel.store import JOB_COLUMNS, row_from

WALKED_A_ROW: Final = 40

# Lists need neither the fold's state nor the result's body: both may be large.
_BRIEF_COLUMNS: Final = JOB_COLUMNS.replace("fold_state,", "NULL,").replace(" result,", " NULL,")
_ORDER: Final = "ORDER BY submitted_at_ms DESC, job_id DESC"

Condition = tuple[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """Where a page of jobs ended; the next one begins after it."""

    submitted_at_ms: int
    job_id: str


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs of a tenant; None is any."""

    tenant: str
    statuses: tuple[str, ...] = ()
    model: str | None = None
    session_id: str | None = None
    tag: str | None = None
    since_ms: int | None = None
    """Submitted at or after."""
    after: Cursor | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class JobRows:
    """Newest first; the rows carry neither fold state nor result. Without `next` there are no more."""

    rows: list[JobRow]
    next: Cursor | None


def list_rows(conn: Connection, wanted: JobFilter) -> JobRows:
    session: list[Condition] = [("session_id = ?", wanted.session_id)] if wanted.session_id is not None else []
    model: list[Condition] = [("model = ?", wanted.model)] if wanted.model is not None else []
    tag: list[Condition] = (
        [("EXISTS (SELECT 1 FROM job_tags t WHERE t.job_id = w.job_id AND t.tag = ?)", wanted.tag)]
        if wanted.tag is not None
        else []
    )
    statuses = tuple(dict.fromkeys(wanted.statuses))  # a caller may name one twice
    if session or not statuses:
        led, tested = (session, model) if session else (model, [])
        marks = ", ".join("?" * len(statuses))
        any_status = [(f"status IN ({marks})", statuses)] if statuses else []
        runs = [_run(conn, wanted, led, [*tested, *any_status, *tag])]
    else:
        runs = [_run(conn, wanted, [("status = ?", status)], [*model, *tag]) for status in statuses]
    # A run that was left early knows nothing of what is older than where it was left.
    left_at = max((left for _, left in runs if left is not None), default=None)
    found = sorted((row for rows, _ in runs for row in rows), key=_place, reverse=True)
    shown = [row for row in found if left_at is None or _place(row) >= left_at][: wanted.limit]
    if len(shown) == wanted.limit:
        return JobRows(shown, _place(shown[-1]))
    return JobRows(shown, left_at)


def _run(
    conn: Connection, wanted: JobFilter, led: Sequence[Condition], tested: Sequence[Condition]
) -> tuple[list[JobRow], Cursor | None]:
    """The rows along one index, and where it was left before its end."""
    conditions: list[Condition] = [("tenant = ?", wanted.tenant), *led]
    if wanted.since_ms is not None:
        conditions.append(("submitted_at_ms >= ?", wanted.since_ms))
    if wanted.after is not None:
        conditions.append(("(submitted_at_ms, job_id) < (?, ?)", (wanted.after.submitted_at_ms, wanted.after.job_id)))
    where, params = _joined(conditions)
    if not tested:
        query = f"SELECT {_BRIEF_COLUMNS} FROM jobs WHERE {where} {_ORDER} LIMIT ?"  # noqa: S608 - our own names and marks
        return [_brief(values) for values in conn.rows(query, (*params, wanted.limit))], None
    walked_max = wanted.limit * WALKED_A_ROW
    test, tests = _joined(tested)
    walk = f"SELECT job_id, submitted_at_ms, model, status FROM jobs WHERE {where} {_ORDER} LIMIT ?"  # noqa: S608 - as above
    found = conn.rows(
        f"SELECT {_BRIEF_COLUMNS} FROM jobs WHERE job_id IN (SELECT w.job_id FROM ({walk}) w WHERE {test} "  # noqa: S608 - as above
        f"ORDER BY w.submitted_at_ms DESC, w.job_id DESC LIMIT ?) {_ORDER}",
        (*params, walked_max, *tests, wanted.limit),
    )
    rows = [_brief(values) for values in found]
    if len(rows) == wanted.limit:
        return rows, None
    last = conn.rows(
        f"SELECT submitted_at_ms, job_id FROM jobs WHERE {where} {_ORDER} LIMIT 1 OFFSET ?",  # noqa: S608 - as above
        (*params, walked_max - 1),
    )
    return rows, Cursor(*last[0]) if last else None


def _joined(conditions: Sequence[Condition]) -> tuple[str, list[Any]]:
    params: list[Any] = []
    for _, value in conditions:
        params += value if isinstance(value, tuple) else (value,)
    return " AND ".join(condition for condition, _ in conditions), params


def _place(row: JobRow) -> Cursor:
    return Cursor(row.submitted_at_ms, row.job_id)


def _brief(values: Sequence[Any]) -> JobRow:
    return row_from([b"" if index == 4 else value for index, value in enumerate(values)])
