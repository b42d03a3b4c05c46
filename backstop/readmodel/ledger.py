"""The statements of the cost ledger. Plain functions of a `Connection`."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from backstop.readmodel.budgets import MEAN_DAYS, Budget, BudgetSpent, question_of, reserved, spent
from backstop.readmodel.costs import PRICED_BY, SUMS_MAX, CostQuestion, CostsView, Tally, columns_of, costs, priced
from backstop.readmodel.database import Connection
from backstop.readmodel.in_lists import in_lists
from backstop.readmodel.spending import (
    COUNTS,
    DAY_MS,
    GROUP,
    MINUTE_MS,
    NO_TERMS,
    NO_USAGE,
    About,
    Ledger,
    Spend,
    SpendKey,
    minute_name,
)
from schemas.base import Terms, Usage
from schemas.codec import canonical
from schemas.statuses import OpenJobStatus
from streams.policy.prices import Prices

IN_FLIGHT: Final[tuple[OpenJobStatus, ...]] = ("submitting", "running", "unknown")
"""Statuses of jobs that may cost something now."""

SPENDS_MAX: Final = 500
"""Spends of one job per answer. A normal job has one or two."""

SPEND_COLUMNS: Final = "job_id, attempt, response_id, minute, outcome, reported, detail"
_COLUMN_OF: Final = {"window": "win", "long": "is_long"}
"""Fields of a group whose names are words of SQL."""
COST_KEY: Final = "about, tenant, day, model, served, tier, win, is_long, outcome, cache_policy, name"
_SUMS: Final = ", ".join(f"CAST(SUM({name}) AS BIGINT)" for name in COUNTS)
_KEYS: Final = tuple(_COLUMN_OF.get(name, name) for name in GROUP)
COST_COLUMNS: Final = ", ".join((*_KEYS, *COUNTS))

_SPEND_KEY: Final = "job_id, attempt, response_id"
_SPEND_SET: Final = (
    "minute = excluded.minute, outcome = excluded.outcome, reported = excluded.reported, detail = excluded.detail"
)
_UPSERT_SPEND: Final = (
    f"INSERT INTO spends ({SPEND_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) "
    f"ON CONFLICT ({_SPEND_KEY}) DO UPDATE SET {_SPEND_SET}"
)
_COST_MARKS: Final = ", ".join("?" * (len(GROUP) + len(COUNTS)))
_ADD_COST: Final = (
    f"INSERT INTO costs ({COST_COLUMNS}) VALUES ({_COST_MARKS}) "
    f"ON CONFLICT ({COST_KEY}) DO UPDATE SET "
    + ", ".join(f"{name} = costs.{name} + excluded.{name}" for name in COUNTS)
)
_IS_GROUP: Final = " AND ".join(f"{name} = ?" for name in _KEYS)
_DROP_COST: Final = f"DELETE FROM costs WHERE attempts = 0 AND {_IS_GROUP}"


def load_spends(conn: Connection, job_ids: Sequence[str]) -> dict[str, dict[SpendKey, Spend]]:
    """The spends of these jobs, by job."""
    found: dict[str, dict[SpendKey, Spend]] = {}
    for marks, part in in_lists(job_ids):
        query = f"SELECT {SPEND_COLUMNS} FROM spends WHERE job_id IN ({marks})"
        for values in conn.rows(query, part):
            spend = _spend(values)
            found.setdefault(spend.job_id, {})[spend.key] = spend
    return found


def spends_of(conn: Connection, job_id: str) -> list[Spend]:
    """The spends of one job, by attempt. The caller must have checked that the job belongs to its tenant."""
    query = f"SELECT {SPEND_COLUMNS} FROM spends WHERE job_id = ? ORDER BY {_SPEND_KEY} LIMIT ?"
    return [_spend(values) for values in conn.rows(query, (job_id, SPENDS_MAX))]


def write_ledger(conn: Connection, ledger: Ledger) -> None:
    """Write the changes of a batch. The sums change by differences, so a batch must be written once."""
    kept = [spend for spend in ledger.changed.values() if spend is not None]
    conn.execute_many(_UPSERT_SPEND, [_values(spend) for spend in kept])
    conn.execute_many(
        "DELETE FROM spends WHERE job_id = ? AND attempt = ? AND response_id = ?",
        [(job_id, *key) for (job_id, key), spend in ledger.changed.items() if spend is None],
    )
    # In key order: equal differences give equal statements, and two databases lock rows in the same order.
    changes = sorted((group, counts) for group, counts in ledger.sums.items() if any(counts.values()))
    conn.execute_many(_ADD_COST, [(*key, *(counts[name] for name in COUNTS)) for key, counts in changes])
    conn.execute_many(_DROP_COST, [key for key, counts in changes if counts["attempts"] < 0])


def sums_between(
    conn: Connection, about: About, tenant: str | None, first_day: int, last_day: int, by: Iterable[str], limit: int
) -> list[tuple[Any, ...]]:  # fmt: skip
    """Sums of `COUNTS` by the columns `by`, over the days from `first_day` to `last_day`; at most `limit` rows.

    `tenant`: None for all tenants, for operators only.
    """
    names = _names(by)
    where, params = ("", ()) if tenant is None else ("AND tenant = ? ", (tenant,))
    return conn.rows(
        f"SELECT {names}, {_SUMS} FROM costs WHERE about = ? {where}AND day >= ? AND day <= ? "
        f"GROUP BY {names} ORDER BY {names} LIMIT ?",
        (about, *params, first_day, last_day, limit),
    )


def spent_by_period(
    conn: Connection, tenant: str, since_ms: int, period_ms: int, prices: Prices
) -> dict[int, Tally]:  # fmt: skip
    """What the tenant's attempts cost, by the start of the period in which the provider took them. `since_ms`: its
    minute counts whole. `period_ms`: whole minutes.
    """
    names, minutes = _names(PRICED_BY), period_ms // MINUTE_MS
    rows = conn.rows(
        f"SELECT CAST(name AS BIGINT) / {minutes:d}, {names}, {_SUMS} FROM costs "
        f"WHERE about = 'minute' AND tenant = ? AND day >= ? AND name >= ? GROUP BY 1, {names} LIMIT ?",
        (tenant, since_ms // DAY_MS, minute_name(since_ms // MINUTE_MS), SUMS_MAX),
    )
    found: dict[int, Tally] = {}
    for period, *row in rows:
        found.setdefault(period * period_ms, Tally()).add(*priced(PRICED_BY, row), prices)
    return found


def ask_costs(conn: Connection, asked: CostQuestion, prices: Prices) -> CostsView:
    """The answer to a question about costs."""

    def read(about: About, columns: Iterable[str]) -> list[tuple[Any, ...]]:
        return sums_between(conn, about, asked.tenant, asked.first_day, asked.last_day, columns, SUMS_MAX)

    total = read("all", PRICED_BY)
    return costs(asked, read(asked.about, columns_of(asked.by)) if asked.by else (), total, prices)


def ask_spent(conn: Connection, budgets: Iterable[Budget], prices: Prices, now_ms: int) -> list[BudgetSpent]:
    """What was spent of each budget in its current period."""
    found = []
    for budget in budgets:
        asked, tally = question_of(budget, now_ms // DAY_MS), Tally()
        days = asked.first_day, asked.last_day
        for row in sums_between(conn, "all", budget.tenant, *days, PRICED_BY, SUMS_MAX):
            tally.add(*priced(PRICED_BY, row), prices)
        of_running = _reserved(conn, budget.tenant, prices, now_ms // DAY_MS) if budget.stop else 0
        found.append(spent(budget, asked.first_day, tally, of_running))
    return found


def _reserved(conn: Connection, tenant: str, prices: Prices, today: int) -> int:
    """What the tenant's running jobs are expected to cost."""
    running: dict[str, int] = {}
    for status in IN_FLIGHT:
        rows = conn.rows(
            "SELECT model, COUNT(*) FROM jobs WHERE tenant = ? AND status = ? GROUP BY model", (tenant, status)
        )
        for model, count in rows:
            running[model or ""] = running.get(model or "", 0) + int(count)
    if not running:
        return 0
    known: dict[str, Tally] = {}
    for row in sums_between(conn, "all", tenant, today - MEAN_DAYS, today, PRICED_BY, SUMS_MAX):
        what, counts = priced(PRICED_BY, row)
        known.setdefault(what.model, Tally()).add(what, counts, prices)
    return reserved(running, known, prices, today)


def _names(by: Iterable[str]) -> str:
    return ", ".join(_COLUMN_OF.get(name, name) for name in by)


def _values(spend: Spend) -> tuple[Any, ...]:
    detail = {
        "usage": spend.usage.model_dump(mode="json"), "terms": spend.terms.model_dump(exclude_none=True),
        "model": spend.model,
    }  # fmt: skip
    return (
        spend.job_id, spend.attempt, spend.response_id, spend.minute, spend.outcome, spend.reported, canonical(detail),
    )  # fmt: skip


def _spend(values: Sequence[Any]) -> Spend:
    job_id, attempt, response_id, minute, outcome, reported, detail = values
    parts = orjson.loads(bytes(detail))
    usage = Usage.model_validate(parts["usage"]) if reported else NO_USAGE
    terms = Terms.model_validate(parts["terms"]) if parts["terms"] else NO_TERMS
    return Spend(job_id, attempt, response_id, minute, outcome, reported, usage, terms, parts.get("model", ""))
