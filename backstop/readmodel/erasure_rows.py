"""What an erasure finds in the read model: jobs of its scope, what they refer to, and which other jobs refer to it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from backstop.readmodel.database import Connection
from backstop.readmodel.in_lists import in_lists
from backstop.readmodel.rows import JobRow, Position
from backstop.readmodel.store import JOB_COLUMNS, row_from
from backstop.runtime.blobs import name_with_keys
from schemas.codec import decode
from schemas.erasures import ErasureScope
from schemas.results import RESULT

JOBS_MAX = 500
"""Jobs of one page: their facts are published and acknowledged together."""

_WITH_RESPONSE = ("attempt_accepted", "attempt_settled", "response_adopted")
_REFERENCE = "LENGTH(body) < 160"
"""A body in the blob store: its row is no longer than this, and an inline one hardly ever as short. With the index a
question for a reference reads no other row."""

INDEXES = (
    f"CREATE INDEX IF NOT EXISTS requests_by_blob ON requests (body) WHERE {_REFERENCE}",
    "CREATE INDEX IF NOT EXISTS jobs_by_request ON jobs (request_sha256)",
)

Mark = tuple[int, str]


@dataclass(slots=True)
class FoundJob:
    """A job of the scope."""

    row: JobRow
    erased: bool = False
    request: bytes | None = None
    """The body of its request, as the row has it."""
    response_ids: set[str] = field(default_factory=set)
    settled: list[Position] = field(default_factory=list)
    """Facts on `jobs` that may refer to a response object."""
    settled_ids: set[str] = field(default_factory=set)
    """The responses of these facts."""

    def heard(self, kind: str, place: Position, summary: dict[str, Any]) -> None:
        """Take an entry of the timeline that names a response."""
        response_id = str(summary["response_id"])
        self.response_ids.add(response_id)
        at_once = kind == "attempt_accepted" and summary["status"] not in ("queued", "in_progress")
        if kind == "attempt_settled" or at_once:
            self.settled.append(place)
            self.settled_ids.add(response_id)


@dataclass(frozen=True, slots=True)
class Page:
    jobs: Sequence[FoundJob]
    next: Mark | None


@dataclass(frozen=True, slots=True)
class ScopeCounts:
    """What an erasure would take."""

    jobs: int
    open: int
    without_content: int
    """Jobs that were erased before, and jobs that never had a request here."""


def scope_of(scope: ErasureScope, submitted_until_ms: int) -> tuple[str, tuple[Any, ...]]:
    """The condition on `jobs j`, never NULL, with its parameters."""
    parts: list[tuple[str, Any]] = [("j.tenant = ?", scope.tenant), ("j.submitted_at_ms <= ?", submitted_until_ms)]
    if scope.job_id is not None:
        parts.append(("j.job_id = ?", scope.job_id))
    if scope.session_id is not None:
        parts.append(("(j.session_id IS NOT NULL AND j.session_id = ?)", scope.session_id))
    if scope.tag is not None:
        parts.append(("j.job_id IN (SELECT job_id FROM job_tags WHERE tag = ?)", scope.tag))
    return " AND ".join(part for part, _ in parts), tuple(value for _, value in parts)


def count(conn: Connection, scope: ErasureScope, submitted_until_ms: int) -> ScopeCounts:
    where, params = scope_of(scope, submitted_until_ms)
    ((jobs, still_open, known),) = conn.rows(
        "SELECT COUNT(*), COUNT(CASE WHEN j.finished_at_ms IS NULL THEN 1 END), COUNT(r.job_id) "
        f"FROM jobs j LEFT JOIN requests r ON r.job_id = j.job_id WHERE {where}",
        params,
    )
    return ScopeCounts(jobs, still_open, jobs - known)


def make_index(conn: Connection, index: str) -> None:
    """One of `INDEXES`, made by the first erasure: a deployment that erases nothing does without them."""
    conn.take_long()
    conn.execute(index)


def page(conn: Connection, scope: ErasureScope, submitted_until_ms: int, after: Mark | None) -> Page:
    """The next jobs of the scope, the newest first."""
    where, params = scope_of(scope, submitted_until_ms)
    if after is not None:
        where, params = f"{where} AND (j.submitted_at_ms, j.job_id) < (?, ?)", (*params, *after)
    found = {
        row.job_id: FoundJob(row)
        for row in (
            row_from(values)
            for values in conn.rows(
                f"SELECT {JOB_COLUMNS} FROM jobs j WHERE {where} "
                f"ORDER BY j.submitted_at_ms DESC, j.job_id DESC LIMIT {JOBS_MAX}",
                params,
            )
        )
    }
    jobs = list(found.values())
    following = None if len(jobs) < JOBS_MAX else (jobs[-1].row.submitted_at_ms, jobs[-1].row.job_id)
    for job in jobs:
        if job.row.result is not None:
            result = decode(RESULT, job.row.result)
            job.erased = result.erased_at_ms is not None
            job.response_ids |= {brief.response_id for brief in result.attempts if brief.response_id is not None}
    for marks, ids in in_lists(tuple(found)):
        for job_id, body in conn.rows(f"SELECT job_id, body FROM requests WHERE job_id IN ({marks})", ids):
            found[job_id].request = bytes(body)
        kinds = ", ".join("?" * len(_WITH_RESPONSE))
        for job_id, kind, topic, part, offset, summary in conn.rows(
            "SELECT job_id, kind, topic, part, log_offset, summary FROM timeline "
            f"WHERE job_id IN ({marks}) AND kind IN ({kinds})",
            (*ids, *_WITH_RESPONSE),
        ):
            found[job_id].heard(kind, Position(topic, part, offset), orjson.loads(bytes(summary)))
    return Page(jobs, following)


def shared(conn: Connection, jobs: Iterable[FoundJob], scope: ErasureScope, submitted_until_ms: int) -> set[str]:
    """Of the names by which these jobs' blobs may be stored (`blob_names`), those that a job outside of the scope may
    refer to as well.
    """
    where, params = scope_of(scope, submitted_until_ms)
    found: set[str] = set()
    for job in jobs:
        request, submission = request_blob(job), job.row.request_sha256
        if request is not None and conn.rows(
            "SELECT 1 FROM requests JOIN jobs j ON j.job_id = requests.job_id "
            f"WHERE requests.body = ? AND {_REFERENCE} AND NOT ({where}) LIMIT 1",
            (job.request, *params),
        ):
            found.add(request)
        of_all = (
            "SELECT 1 FROM jobs j JOIN requests ON requests.job_id = j.job_id "  # an erased job has none
            f"WHERE j.request_sha256 = ? AND NOT ({where})"
        )
        if submission and conn.rows(f"{of_all} LIMIT 1", (submission, *params)):
            found.add(submission)
            if conn.rows(f"{of_all} AND j.tenant = ? LIMIT 1", (submission, *params, job.row.tenant)):
                found.add(name_with_keys(job.row.tenant, submission))
    return found


def blob_names(job: FoundJob) -> list[tuple[str, ...]]:
    """For the request, and for the submission as it came (which the Responses API shows): the names by which it may be
    stored. A submission may have come before there were keys or since; this process need not know.
    """
    request, submission = request_blob(job), job.row.request_sha256
    found: list[tuple[str, ...]] = [] if request is None or request == submission else [(request,)]
    if submission:
        found.append((submission, name_with_keys(job.row.tenant, submission)))
    return found


def request_blob(job: FoundJob) -> str | None:
    """The hash of a request in the blob store; None for one that stands in its row."""
    if job.request is None or b'"kind":"blob"' not in job.request[:20]:
        return None
    return str(orjson.loads(job.request)["sha256"])
