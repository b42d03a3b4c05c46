"""Search by id: of a job, of a response of the provider, of a session; whole, or by its beginning.

Each question is answered by an index, and walks at most `WALKED_MAX` entries of it.
"""

from dataclasses import dataclass
from typing import Final, Literal

from backstop.readmodel.database import Connection
from backstop.readmodel.queries import find_row
from backstop.readmodel.rows import JobRow
from schemas.job_ids import qualified_job_id

HITS_MAX: Final = 10
WALKED_MAX: Final = 400
BEGINNING_CHARS_MIN: Final = 4
"""A shorter beginning fits too many ids."""
_AFTER_ALL: Final = "\U0010ffff"

Kind = Literal["job", "response", "session"]


@dataclass(frozen=True, slots=True)
class Hit:
    """What has the id. `row`: its job; None for a session."""

    kind: Kind
    found: str
    """The id, qualified for a job."""
    row: JobRow | None = None


def search(conn: Connection, tenant: str, given: str) -> list[Hit]:
    """What has this id, else what has an id that begins so; at most `HITS_MAX`."""
    exact = _exact(conn, tenant, given)
    if exact or len(given) < BEGINNING_CHARS_MIN:
        return exact
    return [*_jobs(conn, tenant, given), *_responses(conn, tenant, given)][:HITS_MAX]


def _exact(conn: Connection, tenant: str, given: str) -> list[Hit]:
    hits: list[Hit] = []
    job_id = qualified_job_id(tenant, given)
    row = find_row(conn, tenant, job_id)
    if row is not None:
        hits.append(Hit("job", job_id, row))
    for (claimed_by,) in conn.rows("SELECT job_id FROM claims WHERE response_id = ?", (given,)):
        owner = find_row(conn, tenant, claimed_by)
        if owner is not None:
            hits.append(Hit("response", given, owner))
    if conn.rows("SELECT 1 FROM jobs WHERE tenant = ? AND session_id = ? LIMIT 1", (tenant, given)):
        hits.append(Hit("session", given))
    return hits


def _jobs(conn: Connection, tenant: str, given: str) -> list[Hit]:
    first = qualified_job_id(tenant, given)
    found = conn.rows(
        "SELECT w.job_id FROM ("
        "SELECT job_id, tenant FROM jobs WHERE job_id >= ? AND job_id < ? ORDER BY job_id LIMIT ?"
        ") w WHERE w.tenant = ? ORDER BY w.job_id LIMIT ?",
        (first, first + _AFTER_ALL, WALKED_MAX, tenant, HITS_MAX),
    )
    return [Hit("job", job_id, find_row(conn, tenant, job_id)) for (job_id,) in found]


def _responses(conn: Connection, tenant: str, given: str) -> list[Hit]:
    found = conn.rows(
        "SELECT response_id, job_id FROM claims WHERE response_id >= ? AND response_id < ? "
        "ORDER BY response_id LIMIT ?",
        (given, given + _AFTER_ALL, WALKED_MAX),
    )
    hits: list[Hit] = []
    for response_id, job_id in found:
        row = find_row(conn, tenant, job_id)
        if row is not None:
            hits.append(Hit("response", response_id, row))
        if len(hits) == HITS_MAX:
            break
    return hits
