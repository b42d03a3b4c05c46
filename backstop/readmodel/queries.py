"""All statements that read the read model for callers. Plain
functions of a `Connection`, each restricted to a tenant.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from backstop.readmodel.database import Connection
from backstop.readmodel.figures import EndedJob
from backstop.readmodel.in_lists import in_lists
from backstop.readmodel.ledger import COST_COLUMNS, COST_KEY, SPEND_COLUMNS
from backstop.readmodel.minutes import REFUSAL_COLUMNS, REFUSAL_KEY
from backstop.readmodel.rows import Change, DeadLetterRow, JobRow, KnownSubmission, LateUsage, Position, TimelineEntry
from backstop.readmodel.spending import minute_name
from backstop.readmodel.store import DEAD_LETTER_COLUMNS, JOB_COLUMNS, dead_letter_from, row_from
from schemas.base import Body, Usage
from schemas.statuses import OPEN_JOB_STATUSES

_BODY: TypeAdapter[Body] = TypeAdapter(Body)
LATE_USAGE_MAX = 100
"""Per answer. A normal job has one or two."""

TIMELINE_ENTRIES_MAX = 2_000
"""Per answer. A normal job has tens."""

_CHANGE_COLUMNS = "seq, build, tenant, job_id, session_id, version, status, at_ms, payload"
# In key order, without columns that may differ between two builds of the same logs: builds, epochs, sequences,
# unclaimed facts.
_DIGESTED = (
    ("jobs", JOB_COLUMNS, "job_id"),
    ("job_tags", "tag, job_id", "tag, job_id"),
    ("requests", "job_id, body", "job_id"),
    ("held_results", "job_id, at_ms, record, topic, part, log_offset", "job_id"),
    ("timeline", "job_id, at_ms, topic, part, log_offset, kind, summary", "job_id, at_ms, topic, part, log_offset"),
    ("claims", "response_id, job_id, at_ms", "response_id"),
    (
        "late_usage",
        (
            "job_id, response_id, tenant, at_ms, attempt, input_tokens, output_tokens, total_tokens, cached_tokens, "
            "reasoning_tokens, estimated"
        ),
        "job_id, response_id",
    ),
    ("spends", SPEND_COLUMNS, "job_id, attempt, response_id"),
    ("costs", COST_COLUMNS, COST_KEY),
    ("refusals", REFUSAL_COLUMNS, REFUSAL_KEY),
)
_WITHOUT_JOBS = frozenset({"held_results", "costs", "refusals"})
"""Tables whose rows are not those of a job, or only until it is known."""
_KEPT = (
    "EXISTS (SELECT 1 FROM jobs AS kept WHERE kept.job_id = {table}.job_id "
    "AND COALESCE(kept.finished_at_ms, {before}) >= {before})"
)
_MINUTES_KEPT = {"costs": "(about <> 'minute' OR name >= '{name}')", "refusals": "minute >= {before}"}
_DIGEST_PAGE = 1_000

IDS_MAX = 500
"""Parameters per statement: far below either database's limit."""


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """A selection of dead letters; None means any."""

    tenant: str
    with_nobodys: bool = False
    """Include those whose tenant is unknown."""
    only_open: bool = True
    """Only those without a decision."""
    reason: str | None = None
    since_ms: int | None = None
    after: tuple[int, str] | None = None
    """Time and id of the last entry of the previous page."""
    limit: int = 50


@dataclass(frozen=True, slots=True)
class TenantLoad:
    """A tenant's open jobs, its tokens used, and which of the given job ids exist."""

    open_jobs: int
    tokens: int
    known: frozenset[str]


def find_rows(conn: Connection, tenant: str, job_ids: Sequence[str]) -> dict[str, JobRow]:
    """Those of the tenant's jobs that are known, by id."""
    found: dict[str, JobRow] = {}
    for marks, part in in_lists(job_ids):
        for values in conn.rows(
            f"SELECT {JOB_COLUMNS} FROM jobs WHERE job_id IN ({marks}) AND tenant = ?", (*part, tenant)
        ):
            row = row_from(values)
            found[row.job_id] = row
    return found


def find_row(conn: Connection, tenant: str, job_id: str) -> JobRow | None:
    found = conn.rows(f"SELECT {JOB_COLUMNS} FROM jobs WHERE job_id = ? AND tenant = ?", (job_id, tenant))
    return row_from(found[0]) if found else None


def request_of(conn: Connection, job_id: str) -> Body | None:
    """A job's request; None for an adopted response, and for a job that retention took from the log. The caller must
    have checked that the job belongs to its tenant.
    """
    found = conn.rows("SELECT body FROM requests WHERE job_id = ?", (job_id,))
    return _BODY.validate_json(bytes(found[0][0])) if found else None


def find_known(conn: Connection, job_id: str) -> KnownSubmission | None:
    """The job of any tenant: ids are unique over all tenants, because they carry the tenant's name."""
    found = conn.rows("SELECT job_id, tenant, request_sha256, status FROM jobs WHERE job_id = ?", (job_id,))
    return KnownSubmission(*found[0]) if found else None


def find_existing(conn: Connection, job_ids: Sequence[str]) -> set[str]:
    """Those of these job ids that name a job."""
    found: set[str] = set()
    for marks, part in in_lists(job_ids):
        found.update(job_id for (job_id,) in conn.rows(f"SELECT job_id FROM jobs WHERE job_id IN ({marks})", part))
    return found


def find_owner(conn: Connection, response_id: str) -> tuple[str, str] | None:
    """Tenant and job of a provider's response; None if no job has claimed it."""
    found = conn.rows(
        "SELECT j.tenant, j.job_id FROM claims c JOIN jobs j ON j.job_id = c.job_id WHERE c.response_id = ? "
        # A refused adoption gives no ownership.
        "AND j.status <> 'rejected'",
        (response_id,),
    )
    return (found[0][0], found[0][1]) if found else None


def tenant_load(conn: Connection, tenant: str, since_ms: int, job_ids: Sequence[str]) -> TenantLoad:
    """Open jobs, tokens of jobs that ended since `since_ms`, and which of `job_ids` exist."""
    marks = ", ".join("?" * len(OPEN_JOB_STATUSES))
    ((open_jobs,),) = conn.rows(
        f"SELECT COUNT(*) FROM jobs WHERE tenant = ? AND status IN ({marks})",
        (tenant, *OPEN_JOB_STATUSES),
    )
    ((tokens,),) = conn.rows(
        "SELECT COALESCE(SUM(COALESCE(input_tokens, 0) + COALESCE(output_tokens, 0)), 0) FROM jobs "
        "WHERE tenant = ? AND finished_at_ms >= ?",
        (tenant, since_ms),
    )
    ((late,),) = conn.rows(
        "SELECT COALESCE(SUM(input_tokens + output_tokens), 0) FROM late_usage WHERE tenant = ? AND at_ms >= ?",
        (tenant, since_ms),
    )
    known: set[str] = set()
    for start in range(0, len(job_ids), IDS_MAX):
        asked = job_ids[start : start + IDS_MAX]
        query = f"SELECT job_id FROM jobs WHERE job_id IN ({', '.join('?' * len(asked))})"
        known |= {job_id for (job_id,) in conn.rows(query, asked)}
    return TenantLoad(int(open_jobs), int(tokens) + int(late), frozenset(known))


def list_dead_letters(conn: Connection, wanted: DeadLetterFilter) -> list[DeadLetterRow]:
    """Newest first, at most `limit`."""
    where, params = _dead_letters_where(wanted)
    if wanted.after is not None:
        where += " AND (at_ms, dead_letter_id) < (?, ?)"
        params += wanted.after
    found = conn.rows(
        f"SELECT {DEAD_LETTER_COLUMNS} FROM dead_letters WHERE {where} "
        "ORDER BY at_ms DESC, dead_letter_id DESC LIMIT ?",
        (*params, wanted.limit),
    )
    return [dead_letter_from(values) for values in found]


def find_dead_letters(conn: Connection, wanted: DeadLetterFilter, ids: Sequence[str]) -> list[DeadLetterRow]:
    """Those of `ids` that match, whatever `limit` says."""
    where, params = _dead_letters_where(wanted)
    return [
        dead_letter_from(values)
        for marks, asked in in_lists(ids)
        for values in conn.rows(
            f"SELECT {DEAD_LETTER_COLUMNS} FROM dead_letters WHERE {where} AND dead_letter_id IN ({marks})",
            (*params, *asked),
        )
    ]


def count_dead_letters(conn: Connection, wanted: DeadLetterFilter) -> int:
    """The number of matches, regardless of `limit`. The table is kept short."""
    where, params = _dead_letters_where(wanted)
    ((count,),) = conn.rows(f"SELECT COUNT(*) FROM dead_letters WHERE {where}", params)
    return int(count)


def dead_letter_groups(conn: Connection, wanted: DeadLetterFilter, limit: int) -> list[tuple[int, str, str]]:
    """Number, reason and topic of the matches, the largest group first."""
    where, params = _dead_letters_where(wanted)
    return conn.rows(
        "SELECT COUNT(*), reason, COALESCE(origin_topic, 'HTTP') FROM dead_letters "
        f"WHERE {where} GROUP BY reason, origin_topic ORDER BY 1 DESC, 2, 3 LIMIT ?",
        (*params, limit),
    )


def _dead_letters_where(wanted: DeadLetterFilter) -> tuple[str, tuple[Any, ...]]:
    where = "(tenant = ? OR tenant IS NULL)" if wanted.with_nobodys else "tenant = ?"
    params: tuple[Any, ...] = (wanted.tenant,)
    if wanted.only_open:
        where += " AND resolution IS NULL"
    for condition, value in (("reason = ?", wanted.reason), ("at_ms >= ?", wanted.since_ms)):
        if value is not None:
            where += f" AND {condition}"
            params += (value,)
    return where, params


def ended_since(conn: Connection, tenant: str, since_ms: int, limit: int) -> list[EndedJob]:
    """The jobs that ended since then, latest first, at most `limit`. An index alone answers it."""
    found = conn.rows(
        "SELECT model, status, found_by, finished_at_ms, queued_ms, running_ms, webhook_lag_ms, detection_ms, "
        "COALESCE(input_tokens, 0) + COALESCE(output_tokens, 0) FROM jobs "
        "WHERE tenant = ? AND finished_at_ms >= ? ORDER BY finished_at_ms DESC LIMIT ?",
        (tenant, since_ms, limit),
    )
    return [EndedJob(*values) for values in found]


def submitted_since(conn: Connection, tenant: str, since_ms: int, limit: int) -> list[int]:
    """When the tenant's jobs were submitted since then, latest first, at most `limit`. An index alone answers it."""
    found = conn.rows(
        "SELECT submitted_at_ms FROM jobs WHERE tenant = ? AND submitted_at_ms >= ? "
        "ORDER BY submitted_at_ms DESC LIMIT ?",
        (tenant, since_ms, limit),
    )
    return [row[0] for row in found]


def timeline_of(conn: Connection, job_id: str) -> list[TimelineEntry]:
    """Ordered by time. The caller must have checked that the job belongs to its tenant."""
    found = conn.rows(
        "SELECT at_ms, kind, summary, topic, part, log_offset FROM timeline WHERE job_id = ? "
        "ORDER BY at_ms, topic, part, log_offset LIMIT ?",
        (job_id, TIMELINE_ENTRIES_MAX),
    )
    return [
        TimelineEntry(job_id, at_ms, kind, bytes(summary), Position(topic, part, offset))
        for at_ms, kind, summary, topic, part, offset in found
    ]


def last_seq(conn: Connection) -> int:
    """The number of the last change; 0 if there is none."""
    last: int = conn.rows("SELECT COALESCE(MAX(seq), 0) FROM changes")[0][0]
    return last


def first_seq(conn: Connection) -> int:
    """The number of the first retained change; 0 if there is none."""
    first: int = conn.rows("SELECT COALESCE(MIN(seq), 0) FROM changes")[0][0]
    return first


def changes_after(
    conn: Connection, seq: int, limit: int, *, tenant: str | None = None, job_id: str | None = None,
    session_id: str | None = None,
) -> list[Change]:  # fmt: skip
    """The next changes after `seq`, in order; only those of the tenant, job or session that is given."""
    where, params = ["seq > ?"], [seq]
    for condition, value in (("tenant = ?", tenant), ("job_id = ?", job_id), ("session_id = ?", session_id)):
        if value is not None:
            where.append(condition)
            params.append(value)  # type: ignore[arg-type]  # parameters are of any type
    query = f"SELECT {_CHANGE_COLUMNS} FROM changes WHERE {' AND '.join(where)} ORDER BY seq LIMIT ?"
    return [
        Change(seq, build, tenant_, job, session, version, status, at_ms, bytes(payload))
        for seq, build, tenant_, job, session, version, status, at_ms, payload in conn.rows(query, (*params, limit))
    ]


def late_usage_of(conn: Connection, job_id: str) -> list[LateUsage]:
    """Usage that no result counts. The caller must have checked that the job belongs to its tenant."""
    found = conn.rows(
        "SELECT attempt, response_id, input_tokens, output_tokens, total_tokens, cached_tokens, reasoning_tokens, "
        "estimated FROM late_usage WHERE job_id = ? ORDER BY response_id LIMIT ?",
        (job_id, LATE_USAGE_MAX),
    )
    return [
        LateUsage(
            attempt, response_id,
            Usage(
                input_tokens=of_input, output_tokens=of_output, total_tokens=total, cached_tokens=cached,
                reasoning_tokens=reasoning,
            ),
            bool(estimated),
        )
        for attempt, response_id, of_input, of_output, total, cached, reasoning, estimated in found
    ]  # fmt: skip


def digest(conn: Connection, ended_before_ms: int = 0, minutes_before: int = 0) -> str:
    """SHA-256 over the content in key order: equal for two read models that took the same records, in whatever batches.

    Omits jobs that ended before `ended_before_ms`, and minutes before `minutes_before`: one read model may have removed
    more of them than the other.
    """
    total = hashlib.sha256()
    for table, columns, order in _DIGESTED:
        total.update(f"\n{table}\n".encode())
        keys = order.split(", ")
        marks = ", ".join("?" * len(keys))
        after: Sequence[Any] | None = None
        while True:
            conditions = [f"({order}) > ({marks})"] if after is not None else []
            if ended_before_ms and table not in _WITHOUT_JOBS:
                conditions.append(_KEPT.format(table=table, before=int(ended_before_ms)))
            if minutes_before and table in _MINUTES_KEPT:
                conditions.append(
                    _MINUTES_KEPT[table].format(before=int(minutes_before), name=minute_name(minutes_before))
                )
            where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
            page = conn.rows(
                f"SELECT {order}, {columns} FROM {table} {where}ORDER BY {order} LIMIT {_DIGEST_PAGE}",
                after or (),
            )
            for values in page:
                total.update(_digested(values[len(keys) :]))
            if len(page) < _DIGEST_PAGE:
                break
            after = page[-1][: len(keys)]
    return total.hexdigest()


def _digested(values: Sequence[Any]) -> bytes:
    """Each value with its kind and length, so that different rows give different bytes."""
    parts = []
    for value in values:
        if value is None:
            parts.append(b"-")
        elif isinstance(value, bytes | memoryview):
            parts.append(b"b%d:%s" % (len(value), bytes(value)))
        else:
            text = str(value).encode()
            parts.append(b"t%d:%s" % (len(text), text))
    return b",".join(parts) + b"\n"
