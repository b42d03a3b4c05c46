"""The overview over HTTP: findings that need attention, figures of ended jobs, and dead letters.

Like all reads it shows the caller's tenant only. Dead letters without a known tenant need the scope `admin`; the
preview of a dead letter's value needs `operate`.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from aiohttp import web

from backstop.readmodel.budgets import Spending
from backstop.readmodel.database import Connection, Database
from backstop.readmodel.figures import (
    FAILED,
    Creates,
    EndedJob,
    StatsView,
    counted_from_ms,
    period_of,
    stats,
    webhook_health,
    webhooks_since_ms,
)
from backstop.readmodel.ledger import ask_spent, spent_by_period
from backstop.readmodel.minutes import KEPT_MS, refused_by_period
from backstop.readmodel.queries import (
    DeadLetterFilter,
    count_dead_letters,
    dead_letter_groups,
    ended_since,
    list_dead_letters,
    submitted_since,
)
from backstop.readmodel.reasons import EndedGroup, ended_groups, reasons
from backstop.readmodel.rows import DeadLetterRow
from backstop.readmodel.sweep import NAMED_MAX, Finding, sweep
from backstop.readmodel.unusual import Unusual, floods, slow_runs
from backstop.readmodel.waiting import PASSING_MIN, Paused, WaitingJobs, waiting
from backstop.readmodel.waits import time_of
from backstop.runtime.blob_folders import BlobFolders
from backstop.runtime.http.routes import declare, query_of
from backstop.runtime.process.clock import NowMs
from receiver.lane_watch import LaneWatch
from receiver.reads import overview_routes as declared
from receiver.reads import problems
from receiver.reads.overview_routes import AttentionView, DeadLetterPage, DeadLetterView, FindingCode, FindingView
from receiver.reads.parameters import guarded, page_mark
from receiver.reads.status import SystemWatch, near_end_of_retention, still
from receiver.reads.system_text import (
    missing_sentences,
    near_sentences,
    still_sentences,
    trouble_sentences,
    unassigned_sentences,
)
from schemas.job_ids import own_job_id
from streams.policy.prices import NO_PRICES

HOUR_MS = 3_600_000
STATS_SPAN_MS = 24 * HOUR_MS
STATS_JOBS_MAX = 10_000
"""Jobs counted in one answer, the latest first: about 50 ms of one core on SQLite, independent of the size of results.
"""
ATTENTION_SPAN_MS = HOUR_MS
ATTENTION_JOBS_MAX = 1_000
MISSED_SHARE_MAX = 0.2
MISSED_OF_MIN = 20
"""With fewer ends the share of missed webhooks is not meaningful."""
SILENT_MIN = 10
"""So many ends in a row without a webhook mean that none comes, whatever the share of the hour."""
DEAD_LETTER_GROUPS_MAX = 5

FAILED_SHARE_MAX = 0.2
FAILED_OF_MIN = 5
"""With fewer ends the share of failed jobs is not meaningful."""
BECAUSE_CHARS_MAX: Final = 500

Expiring = Callable[[str], list[str]]
TenantOf = Callable[[web.Request], str]
ScopesOf = Callable[[web.Request], Collection[str]]


@dataclass(frozen=True, slots=True)
class Rights:
    """Functions for the tenant and the scopes of an authenticated request."""

    tenant_of: TenantOf
    scopes_of: ScopesOf


@dataclass(frozen=True, slots=True)
class BesideReadModel:
    """What the overview tells of, beside the read model. None: this process does not know it."""

    spending: Spending | None = None
    folders: BlobFolders | None = None
    """What other processes say of their blob stores."""
    lanes: LaneWatch | None = None
    """Knows the pauses in force."""
    system: SystemWatch | None = None
    """What the broker tells of workers."""
    expiring: Expiring | None = None
    """Tells the keys of a tenant that expire soon, a sentence each."""


def add_overview_routes(
    app: web.Application, database: Database, rights: Rights, now_ms: NowMs, overdue_bound_ms: int,
    beside: BesideReadModel,
) -> None:  # fmt: skip
    """Add the overview routes to `app`. `overdue_bound_ms`: lateness above which a job is overdue (see the sweep)."""
    overview = _Overview(database, rights, now_ms, overdue_bound_ms, beside)
    for route, handler in (
        (declared.GET_ATTENTION, overview.attention),
        (declared.GET_STATS, overview.stats),
        (declared.GET_REASONS, overview.reasons),
        (declared.LIST_DEAD_LETTERS, overview.dead_letters),
    ):
        declare(app, route, guarded(handler))


class _Overview:
    def __init__(
        self, database: Database, rights: Rights, now_ms: NowMs, overdue_bound_ms: int, beside: BesideReadModel
    ) -> None:
        self._beside = beside
        self._database = database
        self._rights = rights
        self._now_ms = now_ms
        self._overdue_bound_ms = overdue_bound_ms

    async def attention(self, request: web.Request) -> web.StreamResponse:
        """The findings, worst first, and the number of open jobs by status."""
        tenant, now_ms = self._rights.tenant_of(request), self._now_ms()
        letters = self._letters(request, only_open=True, since_ms=now_ms - ATTENTION_SPAN_MS)
        bound_ms = self._overdue_bound_ms
        blob_stores = self._of_blob_stores(request)
        system, expiring = self._beside.system, self._beside.expiring
        of_system = [] if system is None else system_findings(system, now_ms)
        keys = [] if expiring is None else expiring(tenant)
        for_admin = "admin" in self._rights.scopes_of(request)

        def poll(conn: Connection) -> AttentionView:
            found = sweep(conn, now_ms, bound_ms, tenant)
            ended = ended_since(conn, tenant, now_ms - ATTENTION_SPAN_MS, ATTENTION_JOBS_MAX)
            waits = waiting(conn, tenant, self._paused(tenant))
            since_ms = now_ms - ATTENTION_SPAN_MS
            findings = [
                *of_system,
                blob_stores,
                _of_waiting("provider_refuses", waits["provider_refuses"], tenant),
                _of_waiting("provider_unavailable", waits["provider_unavailable"], tenant, PASSING_MIN),
                _of_failures(ended_groups(conn, tenant, since_ms)[0]),
                _of_unusual("runs_slow", slow_runs(conn, tenant, ended, now_ms), tenant),
                _of_unusual("tenant_floods", floods(conn) if for_admin else Unusual(), tenant),
                _of_waiting("creates_paused", waits["creates_paused"], tenant),
                _of_jobs("jobs_overdue", found.overdue, tenant),
                _of_jobs("jobs_without_next_action", found.without_next_action, tenant),
                _of_jobs("jobs_finishing_too_long", found.finishing_too_long, tenant),
                _of_dead_letters(conn, letters),
                _of_webhooks(ended, since_ms, now_ms),
                _of_sentences("keys_expire_soon", keys),
                self._of_budgets(conn, tenant, now_ms),
            ]
            return {
                "object": "attention", "at_ms": now_ms, "span_ms": ATTENTION_SPAN_MS,
                "findings": [one for one in findings if one["count"]], "open": found.open_by_status,
            }  # fmt: skip

        return problems.answer(await self._database.read(poll))

    async def stats(self, request: web.Request) -> web.StreamResponse:
        """Distributions over the ended jobs, by model, and how their ends were found."""
        tenant, now_ms = self._rights.tenant_of(request), self._now_ms()
        given = query_of(request, declared.StatsQuery).since
        since_ms = now_ms - STATS_SPAN_MS if given is None else given

        def count(conn: Connection) -> StatsView:  # in the database's thread: it would block the event loop
            ended = ended_since(conn, tenant, since_ms, STATS_JOBS_MAX)
            begun = submitted_since(conn, tenant, since_ms, STATS_JOBS_MAX)
            from_ms = counted_from_ms(ended, since_ms, STATS_JOBS_MAX)
            return stats(ended, since_ms, now_ms, STATS_JOBS_MAX, begun, self._creates(conn, tenant, from_ms, now_ms))

        return problems.answer(await self._database.read(count))

    async def reasons(self, request: web.Request) -> web.StreamResponse:
        """What open jobs wait for, and why jobs ended, in groups."""
        tenant, now_ms = self._rights.tenant_of(request), self._now_ms()
        given = query_of(request, declared.ReasonsQuery).since
        since_ms = now_ms - STATS_SPAN_MS if given is None else given
        return problems.answer(await self._database.read(lambda conn: reasons(conn, tenant, since_ms, now_ms)))

    async def dead_letters(self, request: web.Request) -> web.StreamResponse:
        """A page of dead letters, newest first."""
        asked = query_of(request, declared.DeadLetterQuery)
        after = None if asked.cursor is None else (asked.cursor.submitted_at_ms, asked.cursor.job_id)
        wanted = self._letters(
            request, only_open=asked.state == "open", reason=asked.reason, since_ms=asked.since, after=after,
            limit=asked.limit,
        )  # fmt: skip
        letters = await self._database.read(lambda conn: list_dead_letters(conn, wanted))
        with_preview = "operate" in self._rights.scopes_of(request)
        page: DeadLetterPage = {
            "object": "list",
            "data": [dead_letter_view(letter, wanted.tenant, with_preview=with_preview) for letter in letters],
        }
        if len(letters) == wanted.limit:
            page["next_cursor"] = page_mark(letters[-1].at_ms, letters[-1].dead_letter_id)
        return problems.answer(page)

    def _creates(self, conn: Connection, tenant: str, from_ms: int, now_ms: int) -> Creates:
        spending, period_ms = self._beside.spending, period_of(now_ms - from_ms)
        since_ms = max(from_ms, now_ms - KEPT_MS)
        prices = NO_PRICES if spending is None else spending.prices
        return Creates(
            refused_by_period(conn, tenant, since_ms, period_ms),
            spent_by_period(conn, tenant, since_ms, period_ms, prices),
            since_ms if since_ms > from_ms else 0,
        )

    def _paused(self, tenant: str) -> Paused:
        lanes = self._beside.lanes

        def paused(model: str, tags: tuple[str, ...]) -> str | None:
            if lanes is None:
                return None
            found = lanes.book.holding(model=model, tenant=tenant, tags=tags)
            return next((pause.words for pause in found), None)

        return paused

    def _of_blob_stores(self, request: web.Request) -> FindingView:
        """The finding of processes with other blob stores; a matter of operators, whose keys have `operate`."""
        folders = self._beside.folders
        told = None if folders is None else folders.difference()
        if folders is None or told is None or "operate" not in self._rights.scopes_of(request):
            return {"code": "blob_stores_differ", "count": 0}
        return {"code": "blob_stores_differ", "count": len(folders.elsewhere()), "because": told}

    def _of_budgets(self, conn: Connection, tenant: str, now_ms: int) -> FindingView:
        """The tenant's budgets of which nearly all is spent, or all."""
        spending = self._beside.spending
        if spending is None:
            return {"code": "budget_nearly_spent", "count": 0}
        mine = [budget for budget in spending.budgets if budget.tenant == tenant]
        stands = ask_spent(conn, mine, spending.prices, now_ms)
        near = [each for each in stands if each.is_near or each.is_used_up]
        said = "; ".join(f"{each.sentence}{', creates are held' if each.is_used_up else ''}" for each in near)
        return {"code": "budget_nearly_spent", "count": len(near), "of": len(mine), "because": said}

    def _letters(self, request: web.Request, **chosen: Any) -> DeadLetterFilter:
        with_nobodys = "admin" in self._rights.scopes_of(request)
        return DeadLetterFilter(self._rights.tenant_of(request), with_nobodys=with_nobodys, **chosen)


def dead_letter_view(letter: DeadLetterRow, tenant: str, *, with_preview: bool) -> DeadLetterView:
    """A dead letter as `tenant` sees it; fields without a value are omitted."""
    origin = letter.origin
    view: dict[str, Any] = {
        "object": "dead_letter",
        "id": letter.dead_letter_id,
        "at_ms": letter.at_ms,
        "tenant": letter.tenant,
        "component": letter.component,
        "reason": letter.reason,
        "detail": letter.detail,
        "origin": origin and {"topic": origin.topic, "partition": origin.partition, "offset": origin.offset},
        "key": own_job_id(tenant, letter.record_key) or None,
        "size_bytes": letter.size_bytes,
        "preview": letter.preview if with_preview else None,
        "resolution": letter.resolution,
        "resolved_at_ms": letter.resolved_at_ms,
    }
    return cast("DeadLetterView", {name: value for name, value in view.items() if value is not None})


def _of_jobs(code: FindingCode, found: Finding, tenant: str) -> FindingView:
    return {"code": code, "count": found.count, "job_ids": [own_job_id(tenant, job_id) for job_id in found.job_ids]}


def _of_waiting(code: FindingCode, found: WaitingJobs, tenant: str, count_min: int = 1) -> FindingView:
    """The finding of jobs that wait for one reason; its count is 0 below `count_min` jobs."""
    if found.count < count_min:
        return {"code": code, "count": 0}
    job_ids = [own_job_id(tenant, job_id) for job_id in found.job_ids]
    return {"code": code, "count": found.count, "job_ids": job_ids, "because": found.because}


def system_findings(watch: SystemWatch, now_ms: int) -> list[FindingView]:
    """What holds up the jobs of all tenants."""
    held = watch.holdings
    if held.away is not None:
        return [{"code": "broker_away", "count": 1, "because": held.away[:BECAUSE_CHARS_MAX]}]
    near = near_end_of_retention(held)
    return [
        _of_sentences("topics_missing", missing_sentences(held.missing)),
        _of_sentences("workers_missing", unassigned_sentences(held.unassigned()), len(held.unassigned())),
        _of_sentences("workers_behind", still_sentences(still(held, now_ms))),
        _of_sentences("retention_near", near_sentences(near)),
        _of_sentences("process_in_trouble", trouble_sentences(watch.troubles)),
    ]


def _of_sentences(code: FindingCode, sentences: Sequence[str], count: int | None = None) -> FindingView:
    told = "; ".join(sentences)[:BECAUSE_CHARS_MAX]
    return {"code": code, "count": len(sentences) if count is None else count, "because": told}


def _of_failures(groups: Sequence[EndedGroup]) -> FindingView:
    """The finding of jobs that failed; its count is 0 unless their share exceeds `FAILED_SHARE_MAX`."""
    ended = sum(group["count"] for group in groups)
    failed = [group for group in groups if group["status"] in FAILED]
    count = sum(group["count"] for group in failed)
    if ended < FAILED_OF_MIN or count <= FAILED_SHARE_MAX * ended:
        return {"code": "jobs_failing", "count": 0}
    told = ", ".join(f"{group['count']} × {group.get('code', group['status'])}" for group in failed)
    job_ids = [job_id for group in failed for job_id in group["job_ids"]]
    return {
        "code": "jobs_failing", "count": count, "of": ended, "because": told[:BECAUSE_CHARS_MAX],
        "job_ids": job_ids[:NAMED_MAX],
    }  # fmt: skip


def _of_unusual(code: FindingCode, found: Unusual, tenant: str) -> FindingView:
    view: FindingView = {"code": code, "count": found.count, "of": found.of, "because": found.because}
    if found.job_ids:
        view["job_ids"] = [own_job_id(tenant, job_id) for job_id in found.job_ids]
    return view


def _of_dead_letters(conn: Connection, letters: DeadLetterFilter) -> FindingView:
    groups = dead_letter_groups(conn, letters, DEAD_LETTER_GROUPS_MAX)
    told = ", ".join(f"{count} × {reason} from {topic}" for count, reason, topic in groups)
    return {"code": "dead_letters", "count": count_dead_letters(conn, letters), "because": told[:BECAUSE_CHARS_MAX]}


def _of_webhooks(ended: Sequence[EndedJob], since_ms: int, now_ms: int) -> FindingView:
    """The finding of missed webhooks; its count is 0 unless their share exceeds `MISSED_SHARE_MAX`, or none comes."""
    health = webhook_health(ended, since_ms, now_ms)
    ends, missed = health["webhook"] + health["poll"], health["missed"]
    silent, last_ms = webhooks_since_ms(ended)
    if silent >= SILENT_MIN:
        last = "none told of an end in the last hour" if last_ms is None else f"the last one came at {time_of(last_ms)}"
        told = f"no webhook came for the last {silent} ends, which polls found; {last}"
        return {"code": "webhooks_missed", "count": missed, "of": ends, "because": told}
    high = ends >= MISSED_OF_MIN and missed > MISSED_SHARE_MAX * ends
    return {"code": "webhooks_missed", "count": missed if high else 0, "of": ends}
