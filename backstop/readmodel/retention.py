"""Removes finished jobs from the read model some time after their end, if a setting says so; the logs keep their facts.

Rules:
- A job is removed when it ended before an instant and its fold has forgotten it too: a job id must not look new here
  while the fold still knows it.
- All rows of a job are removed in one transaction: row, tags, request, timeline, claims, late usage, spends. Open jobs
  are never removed. The sums of costs stay.
- Each transaction removes a bounded number, oldest first. The instants are kept in `meta`, so that a comparison
  (rebuild, audit) knows which jobs may be missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from backstop.readmodel.database import Connection
from backstop.readmodel.queries import IDS_MAX
from streams.fold.job import Finished
from streams.fold.rows import decode_job_state

DAY_MS = 86_400_000
JOBS_MAX = 200
"""Per transaction, which holds the only writer for some tens of milliseconds."""
TURNS_MAX = 5
"""Transactions per sweep. With a sweep every 15 s that is 240,000 jobs an hour."""
BEGINNING = (0, "")

_CLAIMED = "response_claimed"
_ENDED, _FORGOTTEN = "ended_before_ms", "forgotten_before_ms"


@dataclass(frozen=True, slots=True)
class Removable:
    """A job may be removed if it ended before the first instant and its fold forgot it before the second. 0: none."""

    ended_before_ms: int = 0
    forgotten_before_ms: int = 0


@dataclass(frozen=True, slots=True)
class Removed:
    """The outcome of one turn. `next`: where the next turn continues; None if no older jobs are left to check."""

    jobs: int
    next: tuple[int, str] | None


def remove_ended(
    conn: Connection, removable: Removable, after: tuple[int, str] = BEGINNING, limit: int = JOBS_MAX
) -> Removed:
    """Of the next `limit` jobs after `after`, oldest first, remove those that may be removed."""
    found = conn.rows(
        "SELECT finished_at_ms, job_id, tags, fold_state FROM jobs "
        "WHERE finished_at_ms < ? AND (finished_at_ms, job_id) > (?, ?) ORDER BY finished_at_ms, job_id LIMIT ?",
        (removable.ended_before_ms, *after, limit),
    )
    gone = [
        (job_id, tags) for _, job_id, tags, state in found if _forgotten_at_ms(state) < removable.forgotten_before_ms
    ]
    if gone:
        _mark(conn, removable)
    for start in range(0, len(gone), IDS_MAX):
        _remove(conn, gone[start : start + IDS_MAX])
    return Removed(len(gone), (found[-1][0], found[-1][1]) if len(found) == limit else None)


def removable_of(conn: Connection) -> Removable:
    """The instants up to which jobs may have been removed so far."""
    kept = dict(conn.rows("SELECT name, value FROM meta WHERE name IN (?, ?)", (_ENDED, _FORGOTTEN)))
    return Removable(int(kept.get(_ENDED, 0)), int(kept.get(_FORGOTTEN, 0)))


def _remove(conn: Connection, gone: Sequence[tuple[str, str]]) -> None:
    ids = [job_id for job_id, _ in gone]
    marks = ", ".join("?" * len(ids))
    claims = conn.rows(f"SELECT summary FROM timeline WHERE job_id IN ({marks}) AND kind = ?", (*ids, _CLAIMED))
    conn.execute_many("DELETE FROM claims WHERE response_id = ?", [(_response_of(summary),) for (summary,) in claims])
    conn.execute_many(
        "DELETE FROM job_tags WHERE tag = ? AND job_id = ?",
        [(tag, job_id) for job_id, tags in gone for tag in orjson.loads(tags)],
    )
    for table in ("timeline", "late_usage", "spends", "requests", "jobs"):
        conn.execute(f"DELETE FROM {table} WHERE job_id IN ({marks})", ids)


def _mark(conn: Connection, removable: Removable) -> None:
    before = removable_of(conn)
    values = (
        (_ENDED, max(removable.ended_before_ms, before.ended_before_ms)),
        (_FORGOTTEN, max(removable.forgotten_before_ms, before.forgotten_before_ms)),
    )
    conn.execute_many(
        "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        [(name, str(value)) for name, value in values],
    )


def _forgotten_at_ms(state: Any) -> int:
    job = decode_job_state(bytes(state))
    assert isinstance(job, Finished), "a row with a finish time must have an ended fold state"
    return job.forget_at_ms


def _response_of(summary: Any) -> str:
    return str(orjson.loads(bytes(summary))["response_id"])
