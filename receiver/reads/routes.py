"""The reads over HTTP: a job, its output, its timeline, lists, sessions, and live streams.

Each read is for one tenant; objects of other tenants are answered as if they did not exist. These routes only read.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import cast

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry

from backstop.readmodel.answers import JobPage, JobView, JobWithResult, ResultView, SessionPage, TimelineView
from backstop.readmodel.costs import job_cost
from backstop.readmodel.database import Connection, Database
from backstop.readmodel.feed import ChangeFeed, StreamLimits, Subscription, TooManyFollowersError
from backstop.readmodel.ledger import spends_of
from backstop.readmodel.lists import JobFilter, JobRows, list_rows, sights_of
from backstop.readmodel.queries import TIMELINE_ENTRIES_MAX, find_row, late_usage_of, timeline_of
from backstop.readmodel.rows import JobRow
from backstop.readmodel.view import TakenJob, late_usage_view, result_view, taken_view, timeline_view
from backstop.readmodel.waits import Sight
from backstop.runtime.authority import authority_of
from backstop.runtime.blobs import BlobStore, get_body, text_of
from backstop.runtime.errors import BlobMissingError
from backstop.runtime.http.routes import declare, query_of
from receiver.reads import declarations as declared
from receiver.reads import problems
from receiver.reads.declarations import JobQuery, ListQuery, PageQuery
from receiver.reads.events import stream
from receiver.reads.parameters import ReadRefusal, guarded, page_mark, path_id
from receiver.reads.shown import Shown
from schemas.codec import decode
from schemas.job_ids import own_job_id, qualified_job_id
from schemas.results import RESULT, JobResult

OUTPUT_INLINE_BYTES_MAX = 262_144
"""A larger output is linked from its job, not included."""

TenantOf = Callable[[web.Request], str]


def add_routes(
    app: web.Application, database: Database, blobs: BlobStore, tenant_of: TenantOf, registry: CollectorRegistry,
    limits: StreamLimits | None = None, taken: "JustTaken | None" = None, feed: ChangeFeed | None = None,
    shown: Shown | None = None,
) -> None:  # fmt: skip
    """Add the reads to `app`, whose cleanup stops the streams and `feed`. The caller opens and closes the database."""
    limits = limits or StreamLimits()
    feed = feed or ChangeFeed(database, registry, limits)
    reads = _Reads(database, blobs, tenant_of, feed, limits, taken or JustTaken(), shown or Shown())
    for route, handler in (
        (declared.LIST_JOBS, reads.list_jobs),
        (declared.GET_JOB, reads.job),
        (declared.GET_OUTPUT, reads.output),
        (declared.GET_TIMELINE, reads.timeline),
        (declared.FOLLOW_JOB, reads.job_events),
        (declared.GET_SESSION, reads.session),
        (declared.FOLLOW_SESSION, reads.session_events),
        (declared.FOLLOW_ALL, reads.all_events),
    ):
        declare(app, route, guarded(handler))

    async def run_feed(_app: web.Application) -> AsyncIterator[None]:
        await feed.start()
        yield
        await feed.stop()

    async def end_streams(_app: web.Application) -> None:
        await feed.stop()

    app.cleanup_ctx.append(run_feed)
    app.on_shutdown.append(end_streams)  # before the server waits for its handlers: a stream does not end by itself


def _nothing_taken(_job_id: str, _tenant: str) -> None:
    return None


async def _nothing_hidden(_tenant: str, _given: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class JustTaken:
    """What the ingress knows before or beside the read model: jobs accepted recently, and deleted responses."""

    find: Callable[[str, str], TakenJob | None] = _nothing_taken
    """By qualified job id and tenant."""
    is_hidden: Callable[[str, str], Awaitable[bool]] = _nothing_hidden
    """By tenant and the tenant's own id of the response."""


class _Reads:
    def __init__(
        self, database: Database, blobs: BlobStore, tenant_of: TenantOf, feed: ChangeFeed, limits: StreamLimits,
        taken: JustTaken, shown: Shown,
    ) -> None:  # fmt: skip
        self._shown = shown
        self._taken = taken
        self._limits = limits
        self._database = database
        self._blobs = blobs
        self._tenant_of = tenant_of
        self._feed = feed

    async def job(self, request: web.Request) -> web.StreamResponse:
        wait_s = query_of(request, JobQuery).wait
        await self._refuse_hidden(request)
        row = await (self._row_when_ended(request, wait_s) if wait_s else self._row(request))
        if row is None:
            taken = self._just_taken(request)
            return problems.not_found("job") if taken is None else problems.answer(taken)
        spends, late, sights = await self._database.read(
            lambda conn: (
                spends_of(conn, row.job_id),
                late_usage_of(conn, row.job_id),
                sights_of(conn, [row], self._shown.now_ms()),
            )
        )
        shown = cast("JobWithResult", dict(self._shown.job(row, sights)))
        if spends:
            shown["cost"] = job_cost(spends, row.model or "", self._shown.prices)
        if row.result is None:
            return problems.answer(shown)
        shown["result"] = await self._result(row, decode(RESULT, row.result))
        if late:
            shown["late_usage"] = [late_usage_view(each) for each in late]
        return problems.answer(shown)

    async def output(self, request: web.Request) -> web.StreamResponse:
        """The complete response object of the provider."""
        await self._refuse_hidden(request)
        row = await self._row(request)
        if row is None and self._just_taken(request) is None:
            return problems.not_found("job")
        if row is None or row.result is None:
            status = "submitting" if row is None else row.status
            return problems.problem(409, "not_finished", f"The job is {status}; it has no output yet.")
        result = decode(RESULT, row.result)
        if result.erased_at_ms is not None:
            return problems.problem(404, "output_missing", "The job was erased, with its output.")
        if result.response is None:
            return problems.problem(404, "no_output", f"The job ended as {row.status}, without an output.")
        try:
            return problems.answer_of(await text_of(self._blobs, result.response))
        except BlobMissingError:
            return problems.problem(404, "output_missing", "The output is no longer in the blob store.")

    async def timeline(self, request: web.Request) -> web.StreamResponse:
        await self._refuse_hidden(request)
        tenant, job_id = self._named(request)
        row, entries = await self._database.read(
            lambda conn: (find_row(conn, tenant, job_id), timeline_of(conn, job_id))
        )
        if row is None and self._just_taken(request) is None:
            return problems.not_found("job")
        shown: TimelineView = {
            "object": "timeline",
            "job_id": request.match_info["job_id"],
            "status": "submitting" if row is None else row.status,
            "entries": [timeline_view(entry) for entry in entries],
            "truncated": len(entries) == TIMELINE_ENTRIES_MAX,
        }
        return problems.answer(shown)

    async def list_jobs(self, request: web.Request) -> web.StreamResponse:
        asked = query_of(request, ListQuery)
        return problems.answer(await self._page(request, asked, asked.session))

    async def session(self, request: web.Request) -> web.StreamResponse:
        session_id = path_id(request, "session")
        asked = query_of(request, PageQuery)
        page = await self._page(request, asked, session_id)
        if not page["data"] and asked.cursor is None and "next_cursor" not in page:
            return problems.not_found("session")
        shown: SessionPage = {**page, "object": "session", "session_id": session_id}
        return problems.answer(shown)

    async def job_events(self, request: web.Request) -> web.StreamResponse:
        await self._refuse_hidden(request)
        tenant, job_id = self._named(request)
        follower = Subscription(tenant, job_id=job_id, authority=authority_of(request))
        return await stream(request, self._database, self._feed, follower, self._limits, self._shown)

    async def session_events(self, request: web.Request) -> web.StreamResponse:
        follower = Subscription(
            self._tenant_of(request), session_id=path_id(request, "session"), authority=authority_of(request)
        )
        return await stream(request, self._database, self._feed, follower, self._limits, self._shown)

    async def all_events(self, request: web.Request) -> web.StreamResponse:
        """All jobs of the tenant; starts with the current state of the newest ones."""
        follower = Subscription(self._tenant_of(request), authority=authority_of(request))
        return await stream(request, self._database, self._feed, follower, self._limits, self._shown)

    async def _row(self, request: web.Request) -> JobRow | None:
        tenant, job_id = self._named(request)
        return await self._database.read(lambda conn: find_row(conn, tenant, job_id))

    def _named(self, request: web.Request) -> tuple[str, str]:
        """The tenant and the job's qualified id.

        :raises Refusal: 404, no job can have this id.
        """
        tenant = self._tenant_of(request)
        return tenant, qualified_job_id(tenant, path_id(request, "job"))

    def _just_taken(self, request: web.Request) -> JobView | None:
        """A job that was accepted recently, in the form of its first row."""
        tenant, job_id = self._named(request)
        found = self._taken.find(job_id, tenant)
        return None if found is None else taken_view(request.match_info["job_id"], found)

    async def _refuse_hidden(self, request: web.Request) -> None:
        """:raises Refusal: 404, the caller has deleted this response."""
        given = request.match_info["job_id"]
        if await self._taken.is_hidden(self._tenant_of(request), given):
            raise ReadRefusal(problems.not_found("job"))

    async def _row_when_ended(self, request: web.Request, wait_s: float) -> JobRow | None:
        """The row once it is terminal, else as it is after `wait_s`. A job that does not exist yet is awaited too."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + wait_s
        tenant, job_id = self._named(request)
        follower = Subscription(tenant, job_id=job_id, authority=authority_of(request))
        try:
            async with self._feed.follow(follower):
                while True:
                    row = await self._row(request)
                    left_s = deadline_s - loop.time()
                    if follower.closed == "not_allowed":
                        raise ReadRefusal(problems.problem(401, "unauthenticated", "The key is no longer valid."))
                    if (row is not None and row.terminal) or left_s <= 0 or follower.closed is not None:
                        return row
                    await follower.next(left_s)
        except TooManyFollowersError as error:
            raise ReadRefusal(problems.problem(503, "too_many_streams", f"{error}.", **{"Retry-After": "5"})) from error

    async def _result(self, row: JobRow, result: JobResult) -> ResultView:
        assert row.result is not None
        view = result_view(orjson.loads(row.result))
        body = result.response
        if body is None:
            return view
        view["response_url"] = f"/v1/jobs/{own_job_id(row.tenant, row.job_id)}/output"
        if body.kind == "inline" or body.size_bytes <= OUTPUT_INLINE_BYTES_MAX:
            try:
                view["response"] = await get_body(self._blobs, body)
            except BlobMissingError:
                view["response_missing"] = True
        return view

    async def _page(self, request: web.Request, asked: PageQuery, session_id: str | None) -> JobPage:
        wanted = _filter(asked, self._tenant_of(request), session_id)

        def read(conn: Connection) -> tuple[JobRows, dict[str, Sight]]:
            found = list_rows(conn, wanted)
            return found, sights_of(conn, found.rows, self._shown.now_ms())

        found, sights = await self._database.read(read)
        page: JobPage = {"object": "list", "data": [self._shown.job(row, sights) for row in found.rows]}
        if found.next is not None:
            page["next_cursor"] = page_mark(found.next.submitted_at_ms, found.next.job_id)
        return page


def _filter(asked: PageQuery, tenant: str, session_id: str | None) -> JobFilter:
    return JobFilter(
        tenant, statuses=asked.status, model=asked.model, session_id=session_id, tag=asked.tag, since_ms=asked.since,
        after=asked.cursor, limit=asked.limit,
    )  # fmt: skip
