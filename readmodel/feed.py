"""What changes, as it changes: one reader of `changes` a process, and a bounded queue for each who follows.

A follower that is slower than its queue is let go, and resumes by the id of the last event it saw: nothing is kept for it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge

from readmodel.database import Connection, Database, DatabaseAwayError
from readmodel.queries import changes_after, last_seq
from readmodel.rows import Change
from runtime.errors import BackstopError
from runtime.logs import get_logger

PAGE = 1_000
LOOK_AGAIN_S = 1.0
AWAY_S = 0.5
STANDING_S = 2.0
"""How long a follower waits for the feed to have a place to stand on, after the start of the process."""

Closed = Literal["stopped", "slow", "rebuilt"]

log = get_logger("readmodel.feed")


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What live streams may take, and how patient they are."""

    queue_max: int = 256
    """Changes that wait for one follower."""
    followers_max: int = 1_200
    """Of one process; below the connections that its server allows."""
    heartbeat_s: float = 15.0
    write_s: float = 20.0
    """A client that takes no byte for this long is let go."""
    appear_s: float = 3.0
    """How long a stream waits for its job: it may have been accepted a moment ago, and not be projected yet."""
    resumed_max: int = 5_000
    """Changes that one resumption replays; with more to tell, what is now is shorter."""


class TooManyFollowersError(BackstopError):
    """Passing: this process serves as many streams as it may."""


class FeedMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.clients = Gauge("backstop_sse_clients", "Followers of live updates.", registry=registry)
        self.dropped = Counter(
            "backstop_sse_dropped",
            "Followers let go, by reason; they resume by themselves.",
            ["reason"],
            registry=registry,
        )


Place = tuple[str, str | None, str | None]
"""Tenant, and of one job, one session, or neither."""


@dataclass(eq=False)
class Follower:
    """Who follows one job, one session, or all jobs of a tenant."""

    tenant: str
    job_id: str | None = None
    session_id: str | None = None
    end_only: bool = False
    """Wants to hear of ends alone. How many of this kind there are is bounded by whoever has them."""
    queue_max: int = 256
    _queue: asyncio.Queue[Change | None] = field(default_factory=asyncio.Queue)
    closed: Closed | None = None

    @property
    def place(self) -> Place:
        return self.tenant, self.job_id, self.session_id

    def offer(self, change: Change) -> None:
        if self.closed is None and (change.terminal or not self.end_only):
            if self._queue.qsize() >= self.queue_max:
                self.close("slow")
            else:
                self._queue.put_nowait(change)

    def close(self, why: Closed) -> None:
        if self.closed is None:
            self.closed = why
            self._queue.put_nowait(None)

    async def next(self, timeout_s: float) -> Change | None:
        """The next change; None once it is closed, or after `timeout_s` without one."""
        if self.closed is not None and self._queue.empty():
            return None
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self._queue.get()
        return None


class ChangeFeed:
    def __init__(self, database: Database, registry: CollectorRegistry, limits: StreamLimits) -> None:
        self._database = database
        self._limits = limits
        self._standing = asyncio.Event()
        self._metrics = FeedMetrics(registry)
        self._followers: dict[Place, set[Follower]] = {}
        self._count = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="readmodel-feed")

    async def stop(self) -> None:
        """Let all followers go, and end."""
        self._close_all("stopped")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    @asynccontextmanager
    async def follow(self, follower: Follower) -> AsyncIterator[Follower]:
        """While this is open, `follower` gets every change it wants; those that were before it are read from the database.

        :raises TooManyFollowersError: ask another process, or later.
        :raises DatabaseAwayError: the feed has found no place to stand on yet.
        """
        if not follower.end_only and self._count >= self._limits.followers_max:
            raise TooManyFollowersError(f"{self._count} streams are open")
        follower.queue_max = self._limits.queue_max
        try:
            # Had the follower read the database before the feed did, what came in between would be in neither.
            async with asyncio.timeout(STANDING_S):
                await self._standing.wait()
        except TimeoutError:
            raise DatabaseAwayError("the feed has not started yet") from None
        place = follower.place
        self._followers.setdefault(place, set()).add(follower)
        self._count += not follower.end_only
        self._metrics.clients.set(self._count)
        try:
            yield follower
        finally:
            self._followers[place].discard(follower)
            if not self._followers[place]:
                del self._followers[place]
            self._count -= not follower.end_only
            self._metrics.clients.set(self._count)
            if follower.closed is not None:
                self._metrics.dropped.labels(follower.closed).inc()

    def _close_all(self, why: Closed) -> None:
        for followers in self._followers.values():
            for follower in followers:
                follower.close(why)

    async def _run(self) -> None:
        at: tuple[int, int] | None = None
        away = False
        while True:
            try:
                at = await self._advance(at)
                away = False
            except BackstopError as error:  # away, or of another schema: either is somebody else's to mend
                if not away:
                    log.warning("feed_away", reason=str(error), passing=isinstance(error, DatabaseAwayError))
                away = True
                await asyncio.sleep(AWAY_S)

    async def _advance(self, at: tuple[int, int] | None) -> tuple[int, int]:
        """From (build, seq) on to what there is now."""
        if at is None:
            found = await self._database.read(where_now)
            self._standing.set()
            return found
        build, seq = at
        await self._database.changed(seq, LOOK_AGAIN_S)
        now, changes = await self._database.read(lambda conn: (where_now(conn), changes_after(conn, seq, PAGE)))
        if now[0] != build:
            self._close_all("rebuilt")
            return now
        for change in changes:
            tenant, job_id, session_id = change.tenant, change.job_id, change.session_id
            for place in {(tenant, job_id, None), (tenant, None, session_id), (tenant, None, None)}:
                for follower in self._followers.get(place, ()):
                    follower.offer(change)
        return build, changes[-1].seq if changes else seq


def where_now(conn: Connection) -> tuple[int, int]:
    """The build, and the last sequence in it."""
    ((build,),) = conn.rows("SELECT value FROM meta WHERE name = 'build'")
    return int(build), last_seq(conn)
