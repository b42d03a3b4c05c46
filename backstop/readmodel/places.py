"""What a waiting job waits for, its place, and about how long, from the rows of its tenant.

Rules:
- The place counts the tenant's jobs of the same model and class that wait and were submitted no later. A retry or a job
  whose deadline is near may still go first. Counting ends at `PLACES_MAX`.
- The reason is what the tenant's job that was granted last, on this model and in this class, waited for.
- The estimate is the place times the mean time between these grants, of which `GRANTS_MAX` are read. There is none
  where the last grant is older than `GRANT_AGE_MS_MAX`: the lane may be held.
- Other tenants' jobs count nowhere: a tenant learns nothing of them.
"""

from collections.abc import Sequence
from typing import Any, Final

import orjson

from backstop.readmodel.database import Connection
from backstop.readmodel.rows import PLACES_MAX, Place

GRANTS_MAX: Final = 50
ROWS_MAX: Final = 500
"""Rows before the first waiting job that are looked through for its predecessors."""
GRANT_AGE_MS_MAX: Final = 600_000

_WAITING: Final = "FROM jobs WHERE status = 'waiting' AND tenant = ? AND model = ? AND priority = ?"


def place_of(conn: Connection, tenant: str, job_id: str, now_ms: int) -> Place | None:
    """None if the job does not wait for its turn."""
    found = conn.rows(
        "SELECT model, priority, submitted_at_ms FROM jobs WHERE job_id = ? AND tenant = ? AND status = 'waiting' "
        "AND priority IS NOT NULL",
        (job_id, tenant),
    )
    if not found:
        return None
    model, priority, submitted_at_ms = found[0]
    same = (tenant, model, priority)
    before = " AND (submitted_at_ms < ? OR (submitted_at_ms = ? AND job_id <= ?))"
    place = _count(conn, before, (*same, submitted_at_ms, submitted_at_ms, job_id))
    first = conn.rows(f"SELECT submitted_at_ms {_WAITING} ORDER BY submitted_at_ms, job_id LIMIT 1", same)
    grants = _grants(conn, same, first[0][0] if first else submitted_at_ms)
    return Place(model, priority, place, _count(conn, "", same), *_forecast(grants, place, now_ms))


def _count(conn: Connection, more: str, params: Sequence[Any]) -> int:
    ((count,),) = conn.rows(
        f"SELECT COUNT(*) FROM (SELECT 1 {_WAITING}{more} LIMIT ?) AS counted", (*params, PLACES_MAX)
    )
    return int(count)


def _grants(conn: Connection, same: tuple[str, str, str], before_ms: int) -> list[tuple[int, str]]:
    """Time and reason of the last grants, oldest first."""
    tenant, model, priority = same
    ids = conn.rows(
        "SELECT job_id FROM (SELECT job_id, status, priority FROM jobs WHERE tenant = ? AND model = ? "
        "AND submitted_at_ms <= ? ORDER BY submitted_at_ms DESC, job_id DESC LIMIT ?) AS recent "
        "WHERE priority = ? AND status <> 'waiting' LIMIT ?",
        (tenant, model, before_ms, ROWS_MAX, priority, GRANTS_MAX),
    )
    if not ids:
        return []
    marks = ", ".join("?" * len(ids))
    rows = conn.rows(
        f"SELECT at_ms, summary FROM timeline WHERE kind = 'job_admitted' AND job_id IN ({marks})",
        [job_id for (job_id,) in ids],
    )
    return sorted((int(at_ms), str(orjson.loads(bytes(summary)).get("waited_for", ""))) for at_ms, summary in rows)


def _forecast(grants: Sequence[tuple[int, str]], place: int, now_ms: int) -> tuple[str | None, int | None]:
    if not grants:
        return None, None
    last_ms, reason = grants[-1]
    if len(grants) < 2 or now_ms - last_ms > GRANT_AGE_MS_MAX:
        return reason, None
    gap_ms = (last_ms - grants[0][0]) / (len(grants) - 1)
    return reason, round(place * gap_ms)
