"""Lists of jobs. No query walks more than `WALKED_A_ROW` rows per row of its limit: one tenant's list must not delay
another's.

One filter uses an index in the list's order; the other filters are tested on each row of that index. If few rows match,
the page ends early with a cursor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from backstop.readmodel.database import Connection
from backstop.readmodel.places import place_of
from backstop.readmodel.rows import JobRow, Position, TimelineEntry
from backstop.readmodel.store import JOB_COLUMNS, row_from
from backstop.readmodel.waits import Sight, sight_of

WALKED_A_ROW: Final = 40

# Lists need neither the fold's state nor the result's body: both may be large.
_BRIEF_COLUMNS: Final = JOB_COLUMNS.replace("fold_state,", "NULL,").replace(" result,", " NULL,")
_ORDER: Final = "ORDER BY submitted_at_ms DESC, job_id DESC"

SIGHT_FACTS: Final = 12
"""The newest facts of a running job that are read for what webhooks and polls told."""

PLACED_MAX: Final = 10
"""Waiting jobs of a list that are shown with their place: each place counts up to 10,000 rows of an index."""

Condition = tuple[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """The last job of a page; the next page begins after it."""

    submitted_at_ms: int
    job_id: str


@dataclass(frozen=True, slots=True)
class JobFilter:
    """A selection of a tenant's jobs; None means any."""

    tenant: str
    statuses: tuple[str, ...] = ()
    model: str | None = None
    session_id: str | None = None
    tag: str | None = None
    since_ms: int | None = None
    """Submitted at or after this time."""
    after: Cursor | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class JobRows:
    """Newest first; the rows have neither fold state nor result. Without `next` there are no more."""

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
    statuses = tuple(dict.fromkeys(wanted.statuses))  # a caller may repeat one
    if session or not statuses:
        led, tested = (session, model) if session else (model, [])
        marks = ", ".join("?" * len(statuses))
        any_status = [(f"status IN ({marks})", statuses)] if statuses else []
        runs = [_run(conn, wanted, led, [*tested, *any_status, *tag])]
    else:
        runs = [_run(conn, wanted, [("status = ?", status)], [*model, *tag], len(statuses)) for status in statuses]
    # A run that stopped early knows nothing about rows older than where it stopped.
    left_at = max((left for _, left in runs if left is not None), default=None)
    found = sorted((row for rows, _ in runs for row in rows), key=_place, reverse=True)
    shown = [row for row in found if left_at is None or _place(row) >= left_at][: wanted.limit]
    if len(shown) == wanted.limit:
        return JobRows(shown, _place(shown[-1]))
    return JobRows(shown, left_at)


def sights_of(conn: Connection, rows: Sequence[JobRow], now_ms: int) -> dict[str, Sight]:
    """By job id: what the newest facts tell of the response that runs, for those of `rows` that have one, and the place
    of those that wait for their turn, of the first `PLACED_MAX`.
    """
    waiting = [row for row in rows if row.status == "waiting"][:PLACED_MAX]
    places = {row.job_id: place_of(conn, row.tenant, row.job_id, now_ms) for row in waiting}
    seen = {job_id: Sight(place=place) for job_id, place in places.items() if place is not None}
    return seen | _running_sights(conn, rows)


def _running_sights(conn: Connection, rows: Sequence[JobRow]) -> dict[str, Sight]:
    running = {row.job_id: row.wait.response_id for row in rows if row.wait is not None and row.wait.response_id}
    if not running:
        return {}
    entries: dict[str, list[TimelineEntry]] = {job_id: [] for job_id in running}
    marks = ", ".join("?" * len(running))
    oldest = (
        "SELECT u.at_ms FROM timeline u WHERE u.job_id = t.job_id "
        f"ORDER BY u.at_ms DESC, u.topic DESC, u.part DESC, u.log_offset DESC LIMIT 1 OFFSET {SIGHT_FACTS - 1}"
    )
    found = conn.rows(
        "SELECT job_id, at_ms, kind, summary, part, log_offset FROM timeline t "
        f"WHERE job_id IN ({marks}) "
        f"AND at_ms >= COALESCE(({oldest}), 0) AND topic = 'responses' ORDER BY job_id, at_ms, part, log_offset",
        tuple(running),
    )
    for job_id, at_ms, kind, summary, part, offset in found:
        place = Position("responses", part, offset)
        entries[job_id].append(TimelineEntry(job_id, at_ms, kind, bytes(summary), place))
    return {job_id: sight_of(entries[job_id], response_id) for job_id, response_id in running.items()}


def _run(
    conn: Connection, wanted: JobFilter, led: Sequence[Condition], tested: Sequence[Condition], runs: int = 1
) -> tuple[list[JobRow], Cursor | None]:
    """The matching rows along one index, and where the walk stopped
    before the index's end (None: it reached the end).

    :param runs: the number of walks that share the page's rows.
    """
    conditions: list[Condition] = [("tenant = ?", wanted.tenant), *led]
    if wanted.since_ms is not None:
        conditions.append(("submitted_at_ms >= ?", wanted.since_ms))
    if wanted.after is not None:
        conditions.append(("(submitted_at_ms, job_id) < (?, ?)", (wanted.after.submitted_at_ms, wanted.after.job_id)))
    where, params = _joined(conditions)
    if not tested:
        query = f"SELECT {_BRIEF_COLUMNS} FROM jobs WHERE {where} {_ORDER} LIMIT ?"
        return [_brief(values) for values in conn.rows(query, (*params, wanted.limit))], None
    walked_max = max(wanted.limit, wanted.limit * WALKED_A_ROW // runs)
    test, tests = _joined(tested)
    walk = f"SELECT job_id, submitted_at_ms, model, status FROM jobs WHERE {where} {_ORDER} LIMIT ?"
    found = conn.rows(
        f"SELECT {_BRIEF_COLUMNS} FROM jobs WHERE job_id IN (SELECT w.job_id FROM ({walk}) w WHERE {test} "
        f"ORDER BY w.submitted_at_ms DESC, w.job_id DESC LIMIT ?) {_ORDER}",
        (*params, walked_max, *tests, wanted.limit),
    )
    rows = [_brief(values) for values in found]
    if len(rows) == wanted.limit:
        return rows, None
    last = conn.rows(
        f"SELECT submitted_at_ms, job_id FROM jobs WHERE {where} {_ORDER} LIMIT 1 OFFSET ?",
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
