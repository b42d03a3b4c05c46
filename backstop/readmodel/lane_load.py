"""What the read model knows of lanes: open jobs by model, and whether any job fits what an operator wants to pause."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from backstop.readmodel.database import Connection
from schemas.statuses import OPEN_JOB_STATUSES, OpenJobStatus

COUNTED_MAX: Final = 10_000
"""Jobs of one status that are counted by their model: some 20 ms."""

TENANTS_MAX: Final = 1_000
"""Tenants that are asked for a job of a model."""

TAGGED_MAX: Final = 10_000
"""Jobs of a tag that are compared; of more, some are taken to fit."""


@dataclass(frozen=True, slots=True)
class LaneLoad:
    """Open jobs of a tenant by model and status. `truncated`: there are more than were counted."""

    by_model: dict[str, dict[OpenJobStatus, int]]
    truncated: bool


def lane_load(conn: Connection, tenant: str) -> LaneLoad:
    counts: dict[str, dict[OpenJobStatus, int]] = defaultdict(dict)
    cut = False
    for status in OPEN_JOB_STATUSES:
        rows = conn.rows(
            "SELECT model, COUNT(*) FROM (SELECT model FROM jobs WHERE tenant = ? AND status = ? LIMIT ?) counted "
            "GROUP BY model",
            (tenant, status, COUNTED_MAX),
        )
        cut = cut or sum(count for _, count in rows) >= COUNTED_MAX
        for model, count in rows:
            if model:  # The model of an adopted response is not known.
                counts[model][status] = int(count)
    return LaneLoad(dict(counts), cut)


def any_job(conn: Connection, *, model: str | None, tenant: str | None, tag: str | None) -> bool:
    """Whether a stored job, open or ended, fits all that is given."""
    if tag is not None:
        return _any_tagged(conn, tag, model, tenant)
    return any(_any_of(conn, each, model) for each in ([tenant] if tenant is not None else tenants(conn)))


def _any_of(conn: Connection, tenant: str, model: str | None) -> bool:
    if model is None:
        return bool(conn.rows("SELECT 1 FROM jobs WHERE tenant = ? LIMIT 1", (tenant,)))
    return bool(conn.rows("SELECT 1 FROM jobs WHERE tenant = ? AND model = ? LIMIT 1", (tenant, model)))


def _any_tagged(conn: Connection, tag: str, model: str | None, tenant: str | None) -> bool:
    rows = conn.rows(
        "SELECT j.tenant, j.model FROM (SELECT job_id FROM job_tags WHERE tag = ? LIMIT ?) t "
        "JOIN jobs j ON j.job_id = t.job_id",
        (tag, TAGGED_MAX),
    )
    return len(rows) >= TAGGED_MAX or any(tenant in (None, whose) and model in (None, of) for whose, of in rows)


def tenants(conn: Connection) -> list[str]:
    """Each tenant with a job, found along the index: a step a tenant."""
    found: list[str] = []
    while len(found) < TENANTS_MAX:
        rows = conn.rows(
            "SELECT tenant FROM jobs WHERE tenant > ? ORDER BY tenant LIMIT 1", (found[-1] if found else "",)
        )
        if not rows:
            break
        found.append(rows[0][0])
    return found
