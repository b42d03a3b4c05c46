"""Finds stuck jobs, which a broken fold or scheduler would never move, from the rows alone.

It shares no code with the scheduler, so that one bug can't hide from both. It reports and changes nothing.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from backstop.readmodel.budgets import Spending
from backstop.readmodel.database import Connection, Database, DatabaseAwayError
from backstop.readmodel.ledger import ask_spent
from backstop.readmodel.metrics import ProjectionMetrics
from backstop.readmodel.minutes import trim_minutes
from backstop.readmodel.retention import BEGINNING, DAY_MS, TURNS_MAX, Removable, remove_ended
from backstop.readmodel.schema import texts
from backstop.readmodel.store import trim, trim_dead_letters
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.logs import get_logger
from backstop.runtime.process.pausing import pause
from schemas.statuses import OPEN_JOB_STATUSES, OpenJobStatus, due_in_fold
from streams.policy.lanes import TOLD_WAIT_MS_MAX

NAMED_MAX = 20
"""Job ids that one finding lists; the count covers all."""

_OPEN = texts(OPEN_JOB_STATUSES)
_DUE_IN_FOLD = texts(status for status in OPEN_JOB_STATUSES if due_in_fold(status))
_LANE_STANDS = (
    "COALESCE(model, '') NOT IN (SELECT COALESCE(model, '') FROM jobs AS other "
    f"WHERE other.status IN ({_OPEN}) AND other.status IN ({_DUE_IN_FOLD}) AND other.updated_at_ms >= ?)"
)
"""A job that backs off may wait past its time while its lane is closed. But then a probe moves a job
of the lane, at the latest after the longest wait that a provider may ask of a lane. A job that waits for its turn under
a limit may wait until its deadline.
"""

log = get_logger("backstop.readmodel.sweep")


@dataclass(frozen=True, slots=True)
class Finding:
    """The number of jobs in a state that should not last, and some of their ids."""

    count: int
    job_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Findings:
    without_next_action: Finding
    """Open, and the next action is unknown, or was due longer ago than the bound."""
    overdue: Finding
    """Open past the deadline and the bound."""
    finishing_too_long: Finding
    """Ended longer ago than the bound, without a record on `results`."""
    results_held: Finding
    """A record on `results` for longer than the bound, without its job's end on `jobs`."""
    open_by_status: dict[OpenJobStatus, int]
    oldest_submitted_at_ms: dict[OpenJobStatus, int]

    @property
    def clean(self) -> bool:
        return not (
            self.without_next_action.count
            or self.overdue.count
            or self.finishing_too_long.count
            or self.results_held.count
        )


def sweep(conn: Connection, now_ms: int, bound_ms: int, tenant: str | None = None) -> Findings:
    """Check once. `bound_ms` is the delay that is normal. For one `tenant` the finding
    `results_held` is left out: a held result has no row that names its tenant.
    """
    before_ms = now_ms - bound_ms
    moved_ms = before_ms - TOLD_WAIT_MS_MAX
    whose, params = ("", ()) if tenant is None else (" AND tenant = ?", (tenant,))
    counts = conn.rows(
        f"SELECT status, COUNT(*), MIN(submitted_at_ms) FROM jobs WHERE status IN ({_OPEN}){whose} GROUP BY status",
        params,
    )

    def jobs(where: str, *more: int) -> Finding:
        # SQLite uses an index of open jobs only where its own condition stands in the question.
        return _find(conn, "jobs", f"status IN ({_OPEN}) AND {where}{whose}", (before_ms, *more, *params))

    return Findings(
        without_next_action=jobs(
            f"status IN ({_DUE_IN_FOLD}) AND (next_action_at_ms IS NULL OR next_action_at_ms < ?) "
            f"AND status <> 'waiting' AND (status <> 'backing_off' OR {_LANE_STANDS})",
            moved_ms,
        ),
        overdue=jobs(f"status IN ({_DUE_IN_FOLD}) AND deadline_at_ms < ?"),
        finishing_too_long=jobs("status = 'finishing' AND updated_at_ms < ?"),
        results_held=_find(conn, "held_results", "at_ms < ?", (before_ms,)) if tenant is None else Finding(0),
        open_by_status={status: count for status, count, _ in counts},
        oldest_submitted_at_ms={status: oldest for status, _, oldest in counts},
    )


def _find(conn: Connection, table: str, where: str, params: Sequence[Any]) -> Finding:
    ((count,),) = conn.rows(f"SELECT COUNT(*) FROM {table} WHERE {where}", params)
    if not count:
        return Finding(0)
    named = conn.rows(f"SELECT job_id FROM {table} WHERE {where} ORDER BY job_id LIMIT ?", (*params, NAMED_MAX))
    return Finding(count, tuple(job_id for (job_id,) in named))


@dataclass(frozen=True, slots=True)
class Kept:
    """How much is kept of tables that only grow."""

    changes_max: int
    changes_keep_ms: int
    unclaimed_keep_ms: int
    dead_letters_max: int
    jobs_keep_ms: int = 0
    """For ended jobs; 0: for ever."""


class Sweeper:
    """Sweeps and trims at an interval."""

    def __init__(
        self, database: Database, now_ms: NowMs, metrics: ProjectionMetrics, *, interval_ms: int, bound_ms: int,
        kept: Kept, spending: Spending | None = None,
    ) -> None:  # fmt: skip
        self._database = database
        self._now_ms = now_ms
        self._metrics = metrics
        self._interval_ms = interval_ms
        self._bound_ms = bound_ms
        self._kept = kept
        self._spending = spending
        self._after = BEGINNING
        """Where the retention continues: earlier jobs were removed, or their fold still knows them."""

    async def run(self, stop: asyncio.Event) -> None:
        opened = False
        while not stop.is_set():
            try:
                if not opened:
                    await self._database.open()
                    opened = True
                await self.once()
            except DatabaseAwayError as error:
                log.warning("sweep_away", reason=str(error))
            await pause(stop, self._interval_ms / 1000)

    async def once(self) -> Findings:
        """Sweep, publish the figures, trim.

        :raises DatabaseAwayError: nothing was read; the figures stay as they were.
        """
        now_ms = self._now_ms()
        found = await self._database.read(lambda conn: sweep(conn, now_ms, self._bound_ms))
        self._publish(found, now_ms)
        await self._watch_budgets(now_ms)
        await self._database.write(lambda conn: self._trim(conn, now_ms))
        if self._kept.jobs_keep_ms:
            await self._remove_ended(now_ms)
        return found

    async def _watch_budgets(self, now_ms: int) -> None:
        spending = self._spending
        if spending is None or not spending.budgets:
            return
        for spent in await self._database.read(lambda conn: ask_spent(conn, spending.budgets, spending.prices, now_ms)):
            self._metrics.budget.labels(spent.budget.tenant, spent.budget.per).set(spent.share)

    async def _remove_ended(self, now_ms: int) -> None:
        for _ in range(TURNS_MAX):
            removable = Removable(now_ms - self._kept.jobs_keep_ms, now_ms - DAY_MS)
            removed = await self._database.write(partial(remove_ended, removable=removable, after=self._after))
            self._metrics.removed.inc(removed.jobs)
            self._after = removed.next or BEGINNING
            if removed.next is None:
                return

    def _trim(self, conn: Connection, now_ms: int) -> None:
        kept = self._kept
        trim(conn, kept.changes_max, now_ms - kept.changes_keep_ms, kept.unclaimed_keep_ms)
        trim_dead_letters(conn, kept.dead_letters_max)
        trim_minutes(conn, now_ms)

    def _publish(self, found: Findings, now_ms: int) -> None:
        metrics = self._metrics
        metrics.without_next_action.set(found.without_next_action.count)
        metrics.overdue.set(found.overdue.count)
        metrics.finishing_too_long.set(found.finishing_too_long.count)
        metrics.results_held.set(found.results_held.count)
        for status in OPEN_JOB_STATUSES:
            oldest_ms = found.oldest_submitted_at_ms.get(status, now_ms)
            metrics.open.labels(status).set(found.open_by_status.get(status, 0))
            metrics.oldest_age.labels(status).set(max(0, now_ms - oldest_ms) / 1000)
        metrics.swept_at.set(now_ms / 1000)
        for name in ("without_next_action", "overdue", "finishing_too_long", "results_held"):
            finding: Finding = getattr(found, name)
            if finding.count:
                log.error("sweep_found", finding=name, count=finding.count, job_ids=finding.job_ids)
