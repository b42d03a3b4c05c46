"""The reads over HTTP: a job, its output, its timeline, lists, sessions, and the live streams of both.

Everything is asked for a tenant, and what is another tenant's does not exist. These routes only read.
"""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry

from readmodel import problems
from readmodel.database import Database, DatabaseAwayError
from readmodel.events import stream
from readmodel.feed import ChangeFeed, Follower, StreamLimits, TooManyFollowersError
from readmodel.queries import TIMELINE_ENTRIES_MAX, Cursor, JobFilter, find_row, list_rows, timeline_of
from readmodel.rows import STATUSES, JobRow
from readmodel.view import TakenJob, job_view, result_view, taken_view, timeline_view
from runtime.blobs import BlobStore, get_body
from runtime.door import own_job_id, qualified_job_id
from runtime.errors import BlobMissingError
from schemas.codec import decode
from schemas.results import RESULT, JobResult

WAIT_S_MAX = 30.0
LIMIT_MAX = 200
OUTPUT_INLINE_BYTES_MAX = 262_144
"""A larger output is linked to, not shown within its job."""

RESPONSE_PREFIX = "resp_"
"""Ids of jobs that came as responses; only these can be deleted by their callers."""

TenantOf = Callable[[web.Request], str]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_routes(
    app: web.Application, database: Database, blobs: BlobStore, tenant_of: TenantOf, registry: CollectorRegistry,
    limits: StreamLimits | None = None, taken: "JustTaken | None" = None,
) -> None:  # fmt: skip
    """Put the reads on `app`; its cleanup ends the streams. The caller opens and closes the database."""
    limits = limits or StreamLimits()
    feed = ChangeFeed(database, registry, limits)
    reads = _Reads(database, blobs, tenant_of, feed, limits, taken or JustTaken())
    for path, handler in (
        ("/v1/jobs", reads.list_jobs),
        ("/v1/jobs/{job_id}", reads.job),
        ("/v1/jobs/{job_id}/output", reads.output),
        ("/v1/jobs/{job_id}/timeline", reads.timeline),
        ("/v1/jobs/{job_id}/events", reads.job_events),
        ("/v1/sessions/{session_id}", reads.session),
        ("/v1/sessions/{session_id}/events", reads.session_events),
    ):
        app.router.add_get(path, _guarded(handler), allow_head=False)

    async def run_feed(_app: web.Application) -> AsyncIterator[None]:
        await feed.start()
        yield
        await feed.stop()

    async def end_streams(_app: web.Application) -> None:
        await feed.stop()

    app.cleanup_ctx.append(run_feed)
    app.on_shutdown.append(end_streams)  # before the server waits for its handlers: a stream has no end of its own


def _nothing_taken(_job_id: str, _tenant: str) -> None:
    return None


async def _nothing_hidden(_tenant: str, _given: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class JustTaken:
    """What the doors know and the read model does not: jobs that it has not got yet, and responses that were deleted."""

    find: Callable[[str, str], TakenJob | None] = _nothing_taken
    """By the qualified id, and the tenant."""
    is_hidden: Callable[[str, str], Awaitable[bool]] = _nothing_hidden
    """By tenant, and the tenant's own id of the response."""


class _Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    def __init__(self, response: web.Response) -> None:
        super().__init__(response.status)
        self.response = response


def _guarded(handler: Handler) -> Handler:
    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except _Refusal as refusal:
            return refusal.response
        except DatabaseAwayError:
            return problems.away()

    return guarded


class _Reads:
    def __init__(
        self, database: Database, blobs: BlobStore, tenant_of: TenantOf, feed: ChangeFeed, limits: StreamLimits,
        taken: JustTaken,
    ) -> None:  # fmt: skip
        self._taken = taken
        self._limits = limits
        self._database = database
        self._blobs = blobs
        self._tenant_of = tenant_of
        self._feed = feed

    async def job(self, request: web.Request) -> web.StreamResponse:
        wait_s = _wait_s(request)
        await self._refuse_hidden(request)
        row = await (self._row_when_ended(request, wait_s) if wait_s else self._row(request))
        if row is None:
            taken = self._just_taken(request)
            return problems.not_found("job") if taken is None else problems.answer(taken)
        view = job_view(row)
        if row.result is not None:
            view["result"] = await self._result(row, decode(RESULT, row.result))
        return problems.answer(view)

    async def output(self, request: web.Request) -> web.StreamResponse:
        """The provider's response object, whole."""
        await self._refuse_hidden(request)
        row = await self._row(request)
        if row is None and self._just_taken(request) is None:
            return problems.not_found("job")
        if row is None or row.result is None:
            status = "submitting" if row is None else row.status
            return problems.problem(409, "not_finished", f"The job is {status}; it has no output yet.")
        result = decode(RESULT, row.result)
        if result.response is None:
            return problems.problem(404, "no_output", f"The job ended as {row.status}, without an output.")
        try:
            return problems.answer(await get_body(self._blobs, result.response))
        except BlobMissingError:
            return problems.problem(404, "output_missing", "The output is not in the blob store any more.")

    async def timeline(self, request: web.Request) -> web.StreamResponse:
        await self._refuse_hidden(request)
        tenant, job_id = self._named(request)
        row, entries = await self._database.read(
            lambda conn: (find_row(conn, tenant, job_id), timeline_of(conn, job_id))
        )
        if row is None and self._just_taken(request) is None:
            return problems.not_found("job")
        return problems.answer(
            {
                "object": "timeline",
                "job_id": request.match_info["job_id"],
                "status": "submitting" if row is None else row.status,
                "entries": [timeline_view(entry) for entry in entries],
                "cut": len(entries) == TIMELINE_ENTRIES_MAX,
            }
        )

    async def list_jobs(self, request: web.Request) -> web.StreamResponse:
        return problems.answer(await self._page(request, request.query.get("session")))

    async def session(self, request: web.Request) -> web.StreamResponse:
        session_id = request.match_info["session_id"]
        page = await self._page(request, session_id)
        if not page["data"] and "cursor" not in request.query:
            return problems.not_found("session")
        return problems.answer(page | {"object": "session", "session_id": session_id})

    async def job_events(self, request: web.Request) -> web.StreamResponse:
        await self._refuse_hidden(request)
        tenant, job_id = self._named(request)
        follower = Follower(tenant, job_id=job_id)
        return await stream(request, self._database, self._feed, follower, self._limits)

    async def session_events(self, request: web.Request) -> web.StreamResponse:
        follower = Follower(self._tenant_of(request), session_id=request.match_info["session_id"])
        return await stream(request, self._database, self._feed, follower, self._limits)

    async def _row(self, request: web.Request) -> JobRow | None:
        tenant, job_id = self._named(request)
        return await self._database.read(lambda conn: find_row(conn, tenant, job_id))

    def _named(self, request: web.Request) -> tuple[str, str]:
        """The tenant, and the job under the name that the logs have for it."""
        tenant = self._tenant_of(request)
        return tenant, qualified_job_id(tenant, request.match_info["job_id"])

    def _just_taken(self, request: web.Request) -> dict[str, Any] | None:
        """A job that was accepted a moment ago, as its row will begin."""
        tenant, job_id = self._named(request)
        found = self._taken.find(job_id, tenant)
        return None if found is None else taken_view(request.match_info["job_id"], found)

    async def _refuse_hidden(self, request: web.Request) -> None:
        """:raises _Refusal: 404, the caller has deleted this response."""
        given = request.match_info["job_id"]
        if given.startswith(RESPONSE_PREFIX) and await self._taken.is_hidden(self._tenant_of(request), given):
            raise _Refusal(problems.not_found("job"))

    async def _row_when_ended(self, request: web.Request, wait_s: float) -> JobRow | None:
        """The row once it is terminal, or as it is after `wait_s`; a job that appears meanwhile is waited for too."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + wait_s
        tenant, job_id = self._named(request)
        follower = Follower(tenant, job_id=job_id)
        try:
            async with self._feed.follow(follower):
                while True:
                    row = await self._row(request)
                    left_s = deadline_s - loop.time()
                    if (row is not None and row.terminal) or left_s <= 0 or follower.closed is not None:
                        return row
                    await follower.next(left_s)
        except TooManyFollowersError as error:
            raise _Refusal(problems.problem(503, "too_many_streams", f"{error}.", **{"Retry-After": "5"})) from error

    async def _result(self, row: JobRow, result: JobResult) -> dict[str, Any]:
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

    async def _page(self, request: web.Request, session_id: str | None) -> dict[str, Any]:
        wanted = _filter(request, self._tenant_of(request), session_id)
        rows = await self._database.read(lambda conn: list_rows(conn, wanted))
        page: dict[str, Any] = {"object": "list", "data": [job_view(row) for row in rows]}
        if len(rows) == wanted.limit:
            page["next_cursor"] = _to_cursor(rows[-1])
        return page


def _filter(request: web.Request, tenant: str, session_id: str | None) -> JobFilter:
    query = request.query
    statuses = tuple(filter(None, query.get("status", "").split(",")))
    strange = [status for status in statuses if status not in STATUSES]
    if strange:
        raise _bad("status", f"one or more of {', '.join(sorted(STATUSES))}")
    return JobFilter(
        tenant,
        statuses=statuses,
        model=query.get("model"),
        session_id=session_id,
        tag=query.get("tag"),
        since_ms=_number(request, "since", 0, 2**53),
        after=_from_cursor(query["cursor"]) if "cursor" in query else None,
        limit=_number(request, "limit", 1, LIMIT_MAX) or 50,
    )


def _wait_s(request: web.Request) -> float:
    return float(_number(request, "wait", 0, int(WAIT_S_MAX)) or 0)


def _number(request: web.Request, name: str, least: int, most: int) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 16 or not least <= int(text) <= most:
        raise _bad(name, f"a whole number from {least} to {most}")
    return int(text)


def _to_cursor(row: JobRow) -> str:
    return base64.urlsafe_b64encode(f"{row.submitted_at_ms}:{row.job_id}".encode()).decode().rstrip("=")


def _from_cursor(text: str) -> Cursor:
    try:
        at_ms, colon, job_id = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition(":")
    except (binascii.Error, ValueError):
        raise _bad("cursor", "the next_cursor of an earlier page") from None
    if not colon or not at_ms.isdecimal() or len(at_ms) > 16:
        raise _bad("cursor", "the next_cursor of an earlier page")
    return Cursor(int(at_ms), job_id)


def _bad(name: str, wanted: str) -> _Refusal:
    return _Refusal(problems.problem(400, "bad_parameter", f"{name} must be {wanted}."))
