"""Which jobs an action on many jobs is about, and what they cost: shared by cancel, change and retry.

Memory is bounded by a batch. The caller walks the list by its cursor, newest first, so jobs that are submitted
meanwhile are not in it.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Generic, Protocol, TypeVar

from aiohttp import web

from backstop.readmodel.costs import CostQuestion
from backstop.readmodel.database import Connection, Database
from backstop.readmodel.ledger import ask_costs
from backstop.readmodel.lists import Cursor, JobFilter, JobRows, list_rows
from backstop.readmodel.queries import find_rows
from backstop.readmodel.rows import JobRow
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.process.clock import NowMs
from receiver.bodies import read_model
from receiver.problems import Problem, Refusal, unavailable
from receiver.reads import problems
from receiver.reads.bulk_routes import BATCH_MAX, IDS_MAX, PLAN_JOBS_MAX, ManyBody
from receiver.reads.lanes import Publishing
from receiver.reads.overview import Rights
from receiver.reads.parameters import page_mark
from schemas.base import Message
from schemas.job_ids import own_job_id, qualified_job_id
from schemas.statuses import OPEN_JOB_STATUSES, JobStatus, OpenJobStatus
from streams.policy.prices import Prices

BODY_BYTES_MAX: Final = 128 << 10
SAMPLE: Final = 5
DAY_MS: Final = 86_400_000
ESTIMATE_DAYS: Final = 30
ENDED: Final[frozenset[OpenJobStatus]] = frozenset(("finishing",))
"""Open statuses of jobs whose end is decided: neither a cancel nor a change has an effect."""
STILL_OPEN: Final = tuple(status for status in OPEN_JOB_STATUSES if status not in ENDED)
AT_PROVIDER: Final = frozenset(("running", "unknown"))

Asked = TypeVar("Asked", bound=ManyBody)


class ChangeRequest(Protocol):
    """The fields of a request by which jobs are chosen."""

    @property
    def ids(self) -> tuple[str, ...]: ...
    @property
    def session_id(self) -> str | None: ...
    @property
    def tag(self) -> str | None: ...
    @property
    def model(self) -> str | None: ...
    @property
    def status(self) -> Sequence[JobStatus]: ...
    @property
    def since_ms(self) -> int | None: ...
    @property
    def tenant(self) -> str | None: ...
    @property
    def cursor(self) -> Cursor | None: ...


@dataclass(frozen=True, slots=True)
class Found:
    """The jobs of a request, or a part of them."""

    rows: Sequence[JobRow]
    next: Cursor | None = None
    not_found: Sequence[str] = ()
    unfit: Sequence[str] = ()
    """Of the given ids, those whose job has another status than the action needs."""


@dataclass(slots=True)
class Counted:
    """The jobs of a plan."""

    statuses: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    costly: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """By model, and whether a response runs or may run."""
    left_out: int = 0
    sample: list[str] = field(default_factory=list)
    not_found: Sequence[str] = ()
    unfit: Sequence[str] = ()
    truncated: bool = False

    @property
    def running(self) -> int:
        return sum(count for status, count in self.statuses.items() if status in AT_PROVIDER)

    def take(self, row: JobRow, own: str) -> None:
        self.statuses[row.status] += 1
        self.models[row.model or ""] += 1
        self.costly[row.model or "", row.status in AT_PROVIDER] += 1
        if len(self.sample) < SAMPLE:
            self.sample.append(own)


@dataclass(frozen=True, slots=True)
class BulkJobs:
    """The reads that actions on many jobs share."""

    database: Database
    rights: Rights
    now_ms: NowMs
    prices: Prices
    publishing: Publishing

    def tenant_of(self, request: web.Request, asked: str | None) -> str:
        """The tenant whose jobs are meant.

        :raises Refusal: 403, another tenant's without `admin`.
        """
        tenant = self.rights.tenant_of(request)
        if asked not in (None, tenant):
            if "admin" not in self.rights.scopes_of(request):
                raise Refusal(Problem(403, "scope_missing", "Another tenant's jobs need the scope 'admin'."))
            return str(asked)
        return tenant

    async def find(
        self, asked: ChangeRequest, tenant: str, fit: Sequence[JobStatus], after: Cursor | None, limit: int
    ) -> Found:  # fmt: skip
        """The next jobs after `after` that have one of the statuses `fit`."""
        if asked.ids:
            return await self.database.read(lambda conn: _named(conn, tenant, asked.ids, fit, after, limit))
        statuses = tuple(status for status in fit if not asked.status or status in asked.status)
        if not statuses:
            return Found(())
        wanted = JobFilter(
            tenant, statuses=statuses, model=asked.model, session_id=asked.session_id, tag=asked.tag,
            since_ms=asked.since_ms, after=after, limit=limit,
        )  # fmt: skip
        page: JobRows = await self.database.read(lambda conn: list_rows(conn, wanted))
        return Found(page.rows, page.next)

    async def count(
        self, asked: ChangeRequest, tenant: str, fit: Sequence[JobStatus], without: Callable[[Sequence[JobRow]], Any]
    ) -> Counted:  # fmt: skip
        """:param without: awaited with the rows of a batch: the ids of those that the action would not change."""
        counted = Counted()
        found = await self.find(asked, tenant, fit, asked.cursor, IDS_MAX if asked.ids else BATCH_MAX)
        counted.not_found, counted.unfit = found.not_found, found.unfit
        while True:
            done: Collection[str] = await without(found.rows)
            counted.left_out += len(done)
            for row in found.rows:
                if row.job_id not in done:
                    counted.take(row, own_job_id(tenant, row.job_id))
            if found.next is None or counted.statuses.total() + counted.left_out >= PLAN_JOBS_MAX:
                break
            found = await self.find(asked, tenant, fit, found.next, BATCH_MAX)
        counted.truncated = found.next is not None
        return counted

    async def mean_costs(self, tenant: str) -> Mapping[str, Decimal]:
        """The mean cost of an attempt with known price in the last days, by model."""
        day = self.now_ms() // DAY_MS
        question = CostQuestion(tenant, ("asked_model",), max(0, day - ESTIMATE_DAYS + 1), day)
        return await self.database.read(lambda conn: _mean_costs(conn, question, self.prices))

    async def publish(self, facts: Sequence[Message], what: str) -> None:
        """:raises Refusal: 503, the log did not acknowledge them all."""
        limits = self.publishing.limits
        try:
            if facts:
                await self.publishing.publisher.publish(facts, timeout_s=limits.publish_s)
        except BrokerUnavailableError:
            raise unavailable(
                "log_unavailable",
                f"The log did not acknowledge all {what} in time; some may take effect. Send it again: a repeat is "
                "harmless.",
                limits.retry_after_s,
            ) from None


class BulkAction(ABC, Generic[Asked]):
    """An action on many jobs. Without `execute` its plan, else one batch; `turn` is one for all actions."""

    body: type[Asked]

    def __init__(self, jobs: BulkJobs, turn: asyncio.Lock) -> None:
        self._jobs = jobs
        self._turn = turn

    async def answer(self, request: web.Request) -> web.StreamResponse:
        asked = await read_model(self.body, request, self._jobs.publishing.limits, bytes_max=BODY_BYTES_MAX)
        tenant = self._jobs.tenant_of(request, asked.tenant)
        self._check(asked)
        if not asked.execute:
            return problems.answer(await self._plan(asked, tenant))
        async with self._turn:
            return problems.answer(await self._act(asked, tenant))

    def _check(self, asked: Asked) -> None:
        """:raises Refusal: the action can't do what is asked."""

    @abstractmethod
    async def _plan(self, asked: Asked, tenant: str) -> Any: ...

    @abstractmethod
    async def _act(self, asked: Asked, tenant: str) -> Any: ...


def counts(counted: Counted, unfit: str) -> dict[str, Any]:
    """What all plans tell. `unfit`: the name of the field with the given ids that have another status."""
    view: dict[str, Any] = {
        "count": counted.statuses.total(), "by_status": dict(counted.statuses), "by_model": dict(counted.models),
        "sample": counted.sample, "truncated": counted.truncated,
    }  # fmt: skip
    if counted.not_found:
        view["not_found"] = list(counted.not_found)
    if counted.unfit:
        view[unfit] = list(counted.unfit)
    return view


def mark_of(cursor: Cursor) -> str:
    return page_mark(cursor.submitted_at_ms, cursor.job_id)


def estimate(costly: Mapping[tuple[str, bool], int], means: Mapping[str, Decimal]) -> dict[str, Any]:
    """`running_cost_usd` and `waiting_cost_usd`, where any is known, and `without_estimate`."""
    unknown = sum(count for (model, _), count in costly.items() if model not in means)
    part: dict[str, Any] = {"without_estimate": unknown}
    for name, at_provider in (("running_cost_usd", True), ("waiting_cost_usd", False)):
        known = [
            count * means[model] for (model, runs), count in costly.items() if runs is at_provider and model in means
        ]
        if known:
            part[name] = f"{sum(known):.6f}"
    return part


def _named(
    conn: Connection, tenant: str, ids: Iterable[str], fit: Sequence[JobStatus], after: Cursor | None, limit: int
) -> Found:  # fmt: skip
    """Those of these jobs that have a fitting status. The cursor is the place in the list of ids."""
    given = list(dict.fromkeys(ids))
    begin = 0 if after is None else after.submitted_at_ms
    part = given[begin : begin + limit]
    names = {own: qualified_job_id(tenant, own) for own in part}
    found = find_rows(conn, tenant, list(names.values()))
    known = {own: found[job_id] for own, job_id in names.items() if job_id in found}
    rows = [row for row in known.values() if row.status in fit]
    over = [own for own, row in known.items() if row.status not in fit]
    missing = [own for own in part if own not in known]
    end = begin + limit
    return Found([row._replace(fold_state=b"", result=None) for row in rows],
                 Cursor(end, "ids") if end < len(given) else None, missing, over)  # fmt: skip


def _mean_costs(conn: Connection, question: CostQuestion, prices: Prices) -> dict[str, Decimal]:
    means: dict[str, Decimal] = {}
    for group in ask_costs(conn, question, prices)["data"]:
        priced = group["attempts"] - group["unmeasured"] - group["unpriced"]
        if priced > 0 and "cost_usd" in group:
            means[group["asked_model"]] = Decimal(str(group["cost_usd"])) / priced
    return means
