"""Server-sent events of jobs. Each has `id: <build>-<seq>`, by which `Last-Event-ID` resumes.

`EventSource` can't set that header on its first request; `?last_event_id=` replaces it.

A stream starts with the current state (or, if resumed, with the missed changes), and then follows the changes. A `gap`
event means that the missed changes are no longer available (trimmed, or from another build); the current state follows.
A job's stream ends with its terminal event.
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

from backstop.readmodel.database import Connection, Database
from backstop.readmodel.feed import ChangeFeed, StreamLimits, Subscription, TooManyFollowersError, where_now
from backstop.readmodel.lists import JobFilter, list_rows, sights_of
from backstop.readmodel.queries import changes_after, find_row, first_seq
from backstop.readmodel.rows import Change, JobRow
from backstop.readmodel.waits import Sight
from backstop.runtime.process.clock import NowMs
from receiver.reads import problems
from receiver.reads.shown import Shown
from schemas.codec import canonical

RETRY_MS = 1_000
RETRY_SPREAD_MS = 2_000
SESSION_JOBS_MAX = 200

_streams = itertools.count()

Gap = Literal["trimmed", "rebuilt", "unreadable"]


@dataclass(frozen=True, slots=True)
class Start:
    """The start of a stream: what is sent first, and the position after it."""

    build: int
    seq: int
    gap: Gap | None
    rows: Sequence[JobRow]
    """The current state; empty if `missed` is sent instead."""
    missed: Sequence[Change]
    over: bool = False
    """The job has ended, and the client has seen its last event."""
    sights: Mapping[str, Sight] = field(default_factory=dict)
    """Of the `rows`."""


def start_from(
    conn: Connection, follower: Subscription, last_event_id: str | None, resumed_max: int, now_ms: int
) -> Start | None:  # fmt: skip
    """None if there is no such job or session."""
    rows = _rows(conn, follower)
    if not rows and (follower.job_id or follower.session_id) is not None:
        return None
    build, seq = where_now(conn)
    if last_event_id is None:
        return Start(build, seq, None, rows, (), sights=sights_of(conn, rows, now_ms))
    seen = _parsed(last_event_id)
    gap = _gap(seen, build, first_seq(conn), seq)
    if seen is None or gap is not None:
        return Start(build, seq, gap, rows, (), sights=sights_of(conn, rows, now_ms))
    missed = changes_after(
        conn, seen[1], resumed_max + 1,
        tenant=follower.tenant, job_id=follower.job_id, session_id=follower.session_id,
    )  # fmt: skip
    if len(missed) > resumed_max:
        return Start(build, seq, "trimmed", rows, (), sights=sights_of(conn, rows, now_ms))
    over = not missed and follower.job_id is not None and rows[0].terminal
    return Start(build, seq, None, (), missed, over)


def _gap(seen: tuple[int, int] | None, build: int, first: int, last: int) -> Gap | None:
    """Why the changes after `seen` are not available; None if they are."""
    if seen is None:
        return "unreadable"
    if seen[0] != build:
        return "rebuilt"
    return None if first - 1 <= seen[1] <= last else "trimmed"


async def stream(
    request: web.Request,
    database: Database,
    feed: ChangeFeed,
    follower: Subscription,
    limits: StreamLimits,
    shown: Shown,
) -> web.StreamResponse:
    """Answer `request` with the events for `follower`.

    :raises DatabaseAwayError: before the stream has begun.
    """
    what = "session" if follower.job_id is None else "job"
    last_event_id = request.headers.get("Last-Event-ID") or request.query.get("last_event_id")
    try:
        # Follow before reading: a change in between arrives by both ways, and its seq shows that it was sent.
        async with feed.follow(follower):
            start = await _started(database, follower, last_event_id, limits, shown.now_ms)
            if start is None:
                return problems.not_found(what)
            if start.over:
                return web.Response(status=204)  # tells an EventSource not to reconnect
            return await _Stream(request, follower, limits, shown).run(start)
    except TooManyFollowersError as error:
        return problems.problem(503, "too_many_streams", f"{error}. Try again later.", **{"Retry-After": "5"})


async def _started(
    database: Database, follower: Subscription, last_event_id: str | None, limits: StreamLimits, now_ms: NowMs
) -> Start | None:
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + limits.appear_s
    while True:
        start = await database.read(
            lambda conn: start_from(conn, follower, last_event_id, limits.resumed_max, now_ms())
        )  # fmt: skip
        left_s = deadline_s - loop.time()
        if start is not None or left_s <= 0 or follower.closed is not None:
            return start
        await follower.next(left_s)


class _Stream:
    def __init__(self, request: web.Request, follower: Subscription, limits: StreamLimits, shown: Shown) -> None:
        self._shown = shown
        self._request = request
        self._limits = limits
        self._follower = follower
        self._response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )

    async def run(self, start: Start) -> web.StreamResponse:
        await self._response.prepare(self._request)
        try:
            if not await self._begin(start):
                await self._follow(start)
        except (ConnectionError, TimeoutError):
            pass  # the client disconnected or does not read; it can resume
        return self._response

    async def _begin(self, start: Start) -> bool:
        """Send the start of the stream. True if the stream ends with it."""
        # Spread the reconnects of clients that were disconnected together.
        retry_ms = RETRY_MS + next(_streams) * 617 % RETRY_SPREAD_MS
        await self._write(b"retry: %d\n\n" % retry_ms)
        if start.gap is not None:
            await self._event(start.build, start.seq, "gap", canonical({"reason": start.gap}))
        for row in start.rows:
            await self._event(
                start.build,
                start.seq,
                "job",
                canonical(self._shown.job(row, start.sights)),
            )
        for change in start.missed:
            await self._event(change.build, change.seq, "job", change.payload)
        return self._ends(any(row.terminal for row in start.rows) or any(change.terminal for change in start.missed))

    async def _follow(self, start: Start) -> None:
        while True:
            change = await self._follower.next(self._limits.heartbeat_s)
            if change is None:
                if self._follower.closed is not None:
                    return
                await self._write(b": still here\n\n")
            elif change.build == start.build and change.seq > start.seq:
                await self._event(change.build, change.seq, "job", change.payload)
                if self._ends(change.terminal):
                    return

    def _ends(self, terminal: bool) -> bool:
        return terminal and self._follower.job_id is not None

    async def _event(self, build: int, seq: int, kind: str, data: bytes) -> None:
        await self._write(b"id: %d-%d\nevent: %s\ndata: %s\n\n" % (build, seq, kind.encode(), data))

    async def _write(self, data: bytes) -> None:
        async with asyncio.timeout(self._limits.write_s):
            await self._response.write(data)


def _rows(conn: Connection, follower: Subscription) -> Sequence[JobRow]:
    if follower.job_id is not None:
        row = find_row(conn, follower.tenant, follower.job_id)
        return () if row is None else (row,)
    wanted = JobFilter(follower.tenant, session_id=follower.session_id, limit=SESSION_JOBS_MAX)
    return list_rows(conn, wanted).rows[::-1]


def _parsed(last_event_id: str) -> tuple[int, int] | None:
    build, dash, seq = last_event_id.strip().partition("-")
    if not dash or not build.isdecimal() or not seq.isdecimal() or len(last_event_id) > 60:
        return None
    return int(build), int(seq)
