"""The handler of `POST /v1/jobs/cancel`. See `receiver.reads.bulk_routes`.

Memory is bounded by a batch, and one batch at a time is written. The caller walks the list by its cursor, newest first,
so jobs that are submitted meanwhile are not cancelled.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from aiohttp import web

from backstop.readmodel.costs import CostQuestion
from backstop.readmodel.database import Connection, Database
from backstop.readmodel.ledger import ask_costs
from backstop.readmodel.lists import Cursor, JobFilter, JobRows, list_rows
from backstop.readmodel.prices import Prices
from backstop.readmodel.queries import find_rows
from backstop.readmodel.rows import JobRow
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.http.routes import declare
from backstop.runtime.process.clock import NowMs
from receiver.bodies import read_model
from receiver.problems import Problem, Refusal, unavailable
from receiver.reads import problems
from receiver.reads.bulk_routes import (
    BATCH_MAX,
    CANCEL_MANY,
    IDS_MAX,
    PLAN_JOBS_MAX,
    CancelBatchView,
    CancelManyBody,
    CancelPlanView,
)
from receiver.reads.lanes import Publishing
from receiver.reads.overview import Rights
from receiver.reads.parameters import guarded, page_mark
from schemas.job_ids import own_job_id, qualified_job_id
from schemas.requests import Cancel
from schemas.statuses import OPEN_JOB_STATUSES, OpenJobStatus
from streams.submission import to_cancel

BODY_BYTES_MAX: Final = 128 << 10
SAMPLE: Final = 5
DAY_MS: Final = 86_400_000
ESTIMATE_DAYS: Final = 30
REASON_CHARS_MAX: Final = 200
ENDED: Final[frozenset[OpenJobStatus]] = frozenset(("finishing",))
"""Open statuses of jobs whose end is decided: a cancel changes nothing."""
CANCELLABLE: Final = tuple(status for status in OPEN_JOB_STATUSES if status not in ENDED)
AT_PROVIDER: Final = frozenset(("running", "unknown"))


def add_bulk_routes(
    app: web.Application, database: Database, rights: Rights, now_ms: NowMs, prices: Prices, publishing: Publishing
) -> None:  # fmt: skip
    """Add `POST /v1/jobs/cancel` to `app`."""
    declare(app, CANCEL_MANY, guarded(_CancelMany(database, rights, now_ms, prices, publishing).answer))


@dataclass(frozen=True, slots=True)
class _Found:
    """The jobs of a request, or a part of them."""

    rows: Sequence[JobRow]
    next: Cursor | None = None
    not_found: Sequence[str] = ()
    not_open: Sequence[str] = ()


class _CancelMany:
    def __init__(
        self, database: Database, rights: Rights, now_ms: NowMs, prices: Prices, publishing: Publishing
    ) -> None:  # fmt: skip
        self._database = database
        self._rights = rights
        self._now_ms = now_ms
        self._prices = prices
        self._publisher = publishing.publisher
        self._limits = publishing.limits
        self._turn = asyncio.Lock()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        asked = await read_model(CancelManyBody, request, self._limits, bytes_max=BODY_BYTES_MAX)
        tenant = self._rights.tenant_of(request)
        if asked.tenant not in (None, tenant):
            if "admin" not in self._rights.scopes_of(request):
                raise Refusal(Problem(403, "scope_missing", "Another tenant's jobs need the scope 'admin'."))
            tenant = str(asked.tenant)
        if not asked.execute:
            return problems.answer(await self._plan(asked, tenant))
        async with self._turn:
            return problems.answer(await self._cancel(asked, tenant))

    async def _plan(self, asked: CancelManyBody, tenant: str) -> CancelPlanView:
        statuses, models, costly = Counter[str](), Counter[str](), Counter[tuple[str, bool]]()
        sample: list[str] = []
        found = await self._find(asked, tenant, asked.cursor, IDS_MAX if asked.ids else BATCH_MAX)
        first = found
        while True:
            for row in found.rows:
                statuses[row.status] += 1
                models[row.model or ""] += 1
                costly[row.model or "", row.status in AT_PROVIDER] += 1
            sample += [own_job_id(tenant, row.job_id) for row in found.rows[: SAMPLE - len(sample)]]
            if found.next is None or statuses.total() >= PLAN_JOBS_MAX:
                break
            found = await self._find(asked, tenant, found.next, BATCH_MAX)
        view: CancelPlanView = {
            "object": "cancel_plan", "count": statuses.total(), "by_status": dict(statuses), "by_model": dict(models),
            "running": sum(count for status, count in statuses.items() if status in AT_PROVIDER),
            "without_estimate": 0, "sample": sample, "cut": found.next is not None,
        }  # fmt: skip
        if first.not_found:
            view["not_found"] = list(first.not_found)
        if first.not_open:
            view["not_open"] = list(first.not_open)
        day = self._now_ms() // DAY_MS
        question = CostQuestion(tenant, ("model",), max(0, day - ESTIMATE_DAYS + 1), day)
        means = await self._database.read(lambda conn: _mean_costs(conn, question, self._prices))
        return view | _estimate(costly, means)

    async def _cancel(self, asked: CancelManyBody, tenant: str) -> CancelBatchView:
        found = await self._find(asked, tenant, asked.cursor, asked.limit)
        reason = f"{asked.why} (by {asked.by})" if asked.by else str(asked.why)
        at_ms = self._now_ms()
        given = [own_job_id(tenant, row.job_id) for row in found.rows]
        facts = [
            to_cancel(
                Cancel(type="cancel", job_id=own, reason=reason[:REASON_CHARS_MAX]),
                job_id=row.job_id, tenant=tenant, ingress="http", at_ms=at_ms,
            )
            for own, row in zip(given, found.rows, strict=True)
        ]  # fmt: skip
        try:
            if facts:
                await self._publisher.publish(facts, timeout_s=self._limits.publish_s)
        except BrokerUnavailableError:
            raise unavailable(
                "log_unavailable",
                "The log did not acknowledge all cancels in time; some may take effect. Send it again: a repeat is "
                "harmless.",
                self._limits.retry_after_s,
            ) from None
        view: CancelBatchView = {"object": "cancel_batch", "count": len(facts), "job_ids": given}
        if found.next is not None:
            view["next_cursor"] = page_mark(found.next.submitted_at_ms, found.next.job_id)
        return view

    async def _find(self, asked: CancelManyBody, tenant: str, after: Cursor | None, limit: int) -> _Found:
        if asked.ids:
            return await self._database.read(lambda conn: _named(conn, tenant, asked.ids, after, limit))
        wanted = JobFilter(
            tenant, statuses=_cancellable(asked.status), model=asked.model, session_id=asked.session_id, tag=asked.tag,
            since_ms=asked.since_ms, after=after, limit=limit,
        )  # fmt: skip
        if not wanted.statuses:
            return _Found(())
        page: JobRows = await self._database.read(lambda conn: list_rows(conn, wanted))
        return _Found(page.rows, page.next)


def _cancellable(asked: Sequence[OpenJobStatus]) -> tuple[OpenJobStatus, ...]:
    return tuple(status for status in CANCELLABLE if not asked or status in asked)


def _named(conn: Connection, tenant: str, ids: Iterable[str], after: Cursor | None, limit: int) -> _Found:
    """The open ones of these jobs. The cursor is the place in the list of ids."""
    given = list(dict.fromkeys(ids))
    begin = 0 if after is None else after.submitted_at_ms
    part = given[begin : begin + limit]
    names = {own: qualified_job_id(tenant, own) for own in part}
    found = find_rows(conn, tenant, list(names.values()))
    known = {own: found[job_id] for own, job_id in names.items() if job_id in found}
    rows = [row for row in known.values() if row.status in CANCELLABLE]
    over = [own for own, row in known.items() if row.status not in CANCELLABLE]
    missing = [own for own in part if own not in known]
    end = begin + limit
    return _Found([row._replace(fold_state=b"", result=None) for row in rows],
                  Cursor(end, "ids") if end < len(given) else None, missing, over)  # fmt: skip


def _mean_costs(conn: Connection, question: CostQuestion, prices: Prices) -> dict[str, Decimal]:
    """The mean cost of an attempt with known price, by model."""
    means: dict[str, Decimal] = {}
    for group in ask_costs(conn, question, prices)["data"]:
        priced = group["attempts"] - group["unmeasured"] - group["unpriced"]
        if priced > 0 and "cost_usd" in group:
            means[group["model"]] = Decimal(str(group["cost_usd"])) / priced
    return means


def _estimate(costly: Mapping[tuple[str, bool], int], means: Mapping[str, Decimal]) -> CancelPlanView:
    unknown = sum(count for (model, _), count in costly.items() if model not in means)
    part: dict[str, object] = {"without_estimate": unknown}
    for name, at_provider in (("running_cost_usd", True), ("waiting_cost_usd", False)):
        known = [
            count * means[model] for (model, runs), count in costly.items() if runs is at_provider and model in means
        ]
        if known:
            part[name] = f"{sum(known):.6f}"
    return part  # type: ignore[return-value]  # a part of the view
