"""The statements of what is counted by minute: refusals of creates, and how long they and the costs by minute are kept.

Minutes before a mark are removed. The mark is kept in `meta`, so that a comparison of two read models (rebuild) leaves
out what one of them may lack, as with jobs (`backstop.readmodel.retention`).
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from backstop.readmodel.database import Connection
from backstop.readmodel.refusals import CreateRefusal
from backstop.readmodel.spending import DAY_MS, MINUTE_MS, minute_name
from schemas.base import Cause

KEPT_MS: Final = 8 * DAY_MS
"""A week, which is what the page shows, and a day more."""
HOUR_MINUTES: Final = 60
REFUSAL_KEY: Final = "tenant, minute, cause"
REFUSAL_COLUMNS: Final = f"{REFUSAL_KEY}, creates"

_MARK = "minutes_before"
_ADD_REFUSALS: Final = (
    f"INSERT INTO refusals ({REFUSAL_COLUMNS}) VALUES (?, ?, ?, ?) "
    f"ON CONFLICT ({REFUSAL_KEY}) DO UPDATE SET creates = refusals.creates + excluded.creates"
)


def write_refusals(conn: Connection, refusals: Mapping[CreateRefusal, int]) -> None:
    """Add the refusals of a batch, in key order: see `write_ledger`."""
    conn.execute_many(_ADD_REFUSALS, [(*refusal, creates) for refusal, creates in sorted(refusals.items())])


def refused_by_period(
    conn: Connection, tenant: str, since_ms: int, period_ms: int
) -> dict[int, Counter[Cause]]:  # fmt: skip
    """The tenant's refused creates, by the start of the period. As in `spent_by_period`."""
    rows = conn.rows(
        f"SELECT minute / {period_ms // MINUTE_MS:d}, cause, CAST(SUM(creates) AS BIGINT) FROM refusals "
        "WHERE tenant = ? AND minute >= ? GROUP BY 1, cause",
        (tenant, since_ms // MINUTE_MS),
    )
    found: dict[int, Counter[Cause]] = {}
    for period, cause, creates in rows:
        found.setdefault(period * period_ms, Counter())[cause] = creates
    return found


def trim_minutes(conn: Connection, now_ms: int) -> int:
    """Remove the minutes that are older than `KEPT_MS`, once an hour. Returns the number of rows."""
    before = (now_ms - KEPT_MS) // MINUTE_MS // HOUR_MINUTES * HOUR_MINUTES
    if before <= minutes_before(conn):
        return 0
    conn.execute(
        "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (_MARK, str(before)),
    )
    gone = conn.execute("DELETE FROM costs WHERE about = 'minute' AND name < ?", (minute_name(before),))
    return gone + conn.execute("DELETE FROM refusals WHERE minute < ?", (before,))


def minutes_before(conn: Connection) -> int:
    """The minute before which some may have been removed; 0 if none was."""
    kept = conn.rows("SELECT value FROM meta WHERE name = ?", (_MARK,))
    return int(kept[0][0]) if kept else 0
