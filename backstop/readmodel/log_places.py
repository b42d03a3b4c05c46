"""Where the facts and results of one job stand in the logs, as far as the read model has applied them."""

from dataclasses import dataclass
from typing import Final

import orjson

from backstop.readmodel.database import Connection
from backstop.readmodel.store import offsets

LOG_PLACES_MAX: Final = 20_000
"""Of one job. It has some ten; a flood of webhooks for one response can make more."""
_RESPONSES_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class LogPlaces:
    """`offsets` ascend. `responses` are those that the job holds: all of their facts are among the places."""

    job_id: str
    offsets: dict[tuple[str, int], list[int]]
    applied: dict[tuple[str, int], int]
    responses: frozenset[str]


def log_places(conn: Connection, identifier: str) -> LogPlaces | None:
    """By the id of a job or of a response that one holds. None: neither is known, or it has too many facts."""
    holder = conn.rows("SELECT job_id FROM claims WHERE response_id = ?", (identifier,))
    job_id = identifier if not holder else holder[0][0]
    entries = conn.rows(
        "SELECT topic, part, log_offset, summary FROM timeline WHERE job_id = ? "
        "ORDER BY topic, part, log_offset LIMIT ?",
        (job_id, LOG_PLACES_MAX + 1),
    )
    if not entries or len(entries) > LOG_PLACES_MAX:
        return None
    places: dict[tuple[str, int], list[int]] = {}
    named: dict[str, None] = {}
    for topic, part, offset, summary in entries:
        places.setdefault((topic, part), []).append(offset)
        if topic == "responses":
            named[orjson.loads(bytes(summary))["response_id"]] = None
    return LogPlaces(job_id, places, offsets(conn), _held(conn, job_id, list(named)[:_RESPONSES_MAX]))


def _held(conn: Connection, job_id: str, named: list[str]) -> frozenset[str]:
    if not named:
        return frozenset()
    marks = ", ".join("?" * len(named))
    held = conn.rows(f"SELECT response_id FROM claims WHERE job_id = ? AND response_id IN ({marks})", (job_id, *named))
    return frozenset(response_id for (response_id,) in held)
