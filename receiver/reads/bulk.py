"""The handlers of `POST /v1/jobs/cancel`, `/change` and `/retry`. See `receiver.reads.bulk_routes`.

One batch of all tenants at a time is written: each tenant's next batch waits for its turn.
"""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, Final

from aiohttp import web

from backstop.readmodel.database import Database
from backstop.readmodel.rows import JobRow
from backstop.runtime.authority import key_id_now
from backstop.runtime.http.routes import declare
from backstop.runtime.process.clock import NowMs
from receiver.problems import FieldError, Problem, Refusal
from receiver.reads.bulk_jobs import STILL_OPEN, BulkAction, BulkJobs, Counted, counts, estimate, mark_of
from receiver.reads.bulk_retries import Retrying, RetryMany
from receiver.reads.bulk_routes import (
    CANCEL_MANY,
    CHANGE_MANY,
    RETRY_MANY,
    CancelBatchView,
    CancelManyBody,
    CancelPlanView,
    ChangeBatchView,
    ChangeManyBody,
    ChangePlanView,
)
from receiver.reads.lanes import Publishing
from receiver.reads.overview import Rights
from receiver.reads.parameters import guarded
from schemas.job_ids import own_job_id
from schemas.jobs import JobChanged
from schemas.requests import TIMEOUT_MS_MAX, Cancel
from streams.policy.prices import Prices
from streams.submission import to_cancel

REASON_CHARS_MAX: Final = 200


def add_bulk_routes(
    app: web.Application, database: Database, rights: Rights, now_ms: NowMs, prices: Prices, publishing: Publishing,
    retrying: Retrying,
) -> None:  # fmt: skip
    """Add the actions on many jobs to `app`."""
    jobs, turn = BulkJobs(database, rights, now_ms, prices, publishing), asyncio.Lock()
    declare(app, CANCEL_MANY, guarded(_CancelMany(jobs, turn).answer))
    declare(app, CHANGE_MANY, guarded(_ChangeMany(jobs, turn).answer))
    declare(app, RETRY_MANY, guarded(RetryMany(jobs, turn, retrying).answer))


class _CancelMany(BulkAction[CancelManyBody]):
    body = CancelManyBody

    async def _plan(self, asked: CancelManyBody, tenant: str) -> CancelPlanView:
        counted = await self._jobs.count(asked, tenant, STILL_OPEN, _none_left_out)
        view: CancelPlanView = {"object": "cancel_plan", **_counts(counted)}  # type: ignore[typeddict-item]
        view.update(estimate(counted.costly, await self._jobs.mean_costs(tenant)))  # type: ignore[typeddict-item]
        return view

    async def _act(self, asked: CancelManyBody, tenant: str) -> CancelBatchView:
        found = await self._jobs.find(asked, tenant, STILL_OPEN, asked.cursor, asked.limit)
        reason = f"{asked.why} (by {asked.by})" if asked.by else str(asked.why)
        at_ms = self._jobs.now_ms()
        given = [own_job_id(tenant, row.job_id) for row in found.rows]
        facts = [
            to_cancel(
                Cancel(type="cancel", job_id=own, reason=reason[:REASON_CHARS_MAX]),
                job_id=row.job_id, tenant=tenant, ingress="http", at_ms=at_ms,
            )
            for own, row in zip(given, found.rows, strict=True)
        ]  # fmt: skip
        await self._jobs.publish(facts, "cancels")
        view: CancelBatchView = {"object": "cancel_batch", "count": len(facts), "job_ids": given}
        if found.next is not None:
            view["next_cursor"] = mark_of(found.next)
        return view


class _ChangeMany(BulkAction[ChangeManyBody]):
    body = ChangeManyBody

    def _check(self, asked: ChangeManyBody) -> None:
        self._jobs.publishing.allows_priority(asked.priority)
        latest_ms = self._jobs.now_ms() + TIMEOUT_MS_MAX
        if asked.deadline_at_ms is not None and asked.deadline_at_ms > latest_ms:
            far = FieldError("#/deadline_at_ms", f"must be at most {latest_ms}, which is in seven days")
            raise Refusal(Problem(422, "bad_request", "The deadline is too far away.", errors=(far,)))

    async def _plan(self, asked: ChangeManyBody, tenant: str) -> ChangePlanView:
        async def unchanged(rows: Sequence[JobRow]) -> Collection[str]:
            return {row.job_id for row in rows if not _changes(asked, row)}

        counted = await self._jobs.count(asked, tenant, STILL_OPEN, unchanged)
        ends = asked.deadline_at_ms is not None and asked.deadline_at_ms <= self._jobs.now_ms()
        view: ChangePlanView = {"object": "change_plan", **_counts(counted)}  # type: ignore[typeddict-item]
        view["unchanged"] = counted.left_out
        view["ending"] = counted.statuses.total() if ends else 0
        view.update(estimate(counted.costly, await self._jobs.mean_costs(tenant)))  # type: ignore[typeddict-item]
        return view

    async def _act(self, asked: ChangeManyBody, tenant: str) -> ChangeBatchView:
        found = await self._jobs.find(asked, tenant, STILL_OPEN, asked.cursor, asked.limit)
        at_ms = self._jobs.now_ms()
        rows = [row for row in found.rows if _changes(asked, row)]
        facts = [
            JobChanged(
                id=f"{row.job_id}/changed/{at_ms}/{asked.priority or ''}/{asked.deadline_at_ms or ''}", at_ms=at_ms,
                job_id=row.job_id, tenant=tenant, ingress="http", priority=asked.priority,
                deadline_at_ms=asked.deadline_at_ms, why=str(asked.why), by=asked.by, asked_by=key_id_now(),
            )
            for row in rows
        ]  # fmt: skip
        await self._jobs.publish(facts, "changes")
        view: ChangeBatchView = {
            "object": "change_batch", "count": len(facts), "unchanged": len(found.rows) - len(rows),
            "job_ids": [own_job_id(tenant, row.job_id) for row in rows],
        }  # fmt: skip
        if found.next is not None:
            view["next_cursor"] = mark_of(found.next)
        return view


def _changes(asked: ChangeManyBody, row: JobRow) -> bool:
    """Whether the job would have another priority or deadline. A run that was broken off goes on by it."""
    other_priority = asked.priority is not None and asked.priority != (row.priority or "normal")
    return other_priority or asked.deadline_at_ms not in (None, row.deadline_at_ms)


async def _none_left_out(_rows: Sequence[JobRow]) -> Collection[str]:
    return ()


def _counts(counted: Counted) -> dict[str, Any]:
    return {**counts(counted, "not_open"), "running": counted.running}
