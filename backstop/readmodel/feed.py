"""Live changes: each process has one reader of `changes`, and a bounded queue per follower.

Without followers nothing is read. A follower slower than its queue is closed, and resumes by the id of the last event
it saw: nothing is kept for it. When all places are taken, an owner above its share loses one. A follower whose key is
no longer valid gets no more changes.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge

from backstop.readmodel.database import Connection, Database, DatabaseAwayError
from backstop.readmodel.queries import changes_after, last_seq
from backstop.readmodel.rows import Change
from backstop.runtime.authority import NOBODYS, Authority
from backstop.runtime.errors import BackstopError
from backstop.runtime.process.logs import get_logger
from backstop.runtime.shares import Evict, Owner, Shares

PAGE = 1_000
POLL_AGAIN_S = 1.0
AWAY_S = 0.5
STANDING_S = 2.0
"""After the start of the process, a follower waits this long for the feed's first position."""

RECHECK_S = 1.0
"""A stream may outlive its key by this time, plus the time to reload the keys file."""

Closed = Literal["stopped", "slow", "rebuilt", "outnumbered", "not_allowed"]
OVER: Final = frozenset[Closed]({"outnumbered", "not_allowed"})
"""Reasons that also discard queued changes."""

log = get_logger("backstop.readmodel.feed")


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Limits of live streams."""

    queue_max: int = 256
    """Changes queued per follower."""
    followers_max: int = 1_200
    """Per process; below its server's limit on connections."""
    heartbeat_s: float = 15.0
    write_s: float = 20.0
    """A client that takes no byte for this long is closed."""
    appear_s: float = 3.0
    """Time that a stream waits for its job, which may have been accepted but not projected yet."""
    resumed_max: int = 5_000
    """Changes replayed by one resumption; beyond it, sending the current state is shorter."""


class TooManyFollowersError(BackstopError):
    """Passing: this process has no place left for this owner's stream."""


class FeedMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.clients = Gauge("backstop_sse_clients", "Followers of live updates.", registry=registry)
        self.dropped = Counter(
            "backstop_sse_dropped",
            "Followers closed, by reason; they resume by themselves.",
            ["reason"],
            registry=registry,
        )


Place = tuple[str, str | None, str | None]
"""Tenant, and one job or one session of it, or neither."""


@dataclass(eq=False)
class Subscription:
    """A subscription to one job, one session, or all jobs of a tenant."""

    tenant: str
    job_id: str | None = None
    session_id: str | None = None
    authority: Authority = NOBODYS
    end_only: bool = False
    """Only terminal changes are delivered. The caller must bound the number of such followers: they take no place."""
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
        if self.closed is None or (why in OVER and self.closed not in OVER):
            self.closed = why
            while why in OVER and not self._queue.empty():
                self._queue.get_nowait()
            self._queue.put_nowait(None)

    async def next(self, timeout_s: float) -> Change | None:
        """The next change; None if the follower is closed and drained, or after `timeout_s` without a change."""
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
        """The feed has a position: later changes reach the followers."""
        self._following = 0
        self._wanted = asyncio.Event()
        """There are followers."""
        self._metrics = FeedMetrics(registry)
        self._followers: dict[Place, set[Subscription]] = {}
        self._shares = Shares(limits.followers_max)
        self._places: dict[Owner, dict[Subscription, None]] = {}
        """The followers that hold a place, by owner, oldest first."""
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._run(), name="readmodel-feed"),
            asyncio.create_task(self._recheck(), name="readmodel-feed-recheck"),
        ]

    async def stop(self) -> None:
        """Close all followers, and end the tasks."""
        self._close_all("stopped")
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def follow(self, follower: Subscription) -> AsyncIterator[Subscription]:
        """For the length of the block `follower` gets every change it wants. Earlier changes must be read from the
        database.

        :raises TooManyFollowersError: try another process, or later.
        :raises DatabaseAwayError: the feed has not read its first position yet.
        """
        follower.queue_max = self._limits.queue_max
        if not follower.end_only:
            self._take_place(follower)
        self._following += 1
        self._wanted.set()
        try:
            await self._stand()
            async with self._registered(follower):
                yield follower
        finally:
            self._following -= 1
            if not self._following:
                self._wanted.clear()
            self._leave_place(follower)
            if follower.closed is not None:
                self._metrics.dropped.labels(follower.closed).inc()

    async def _stand(self) -> None:
        """:raises DatabaseAwayError: the feed has not read its first position yet."""
        try:
            # If the follower read the database before the feed did, the changes in between would reach it on neither
            # way.
            async with asyncio.timeout(STANDING_S):
                await self._standing.wait()
        except TimeoutError:
            raise DatabaseAwayError("the feed has not started yet") from None

    @asynccontextmanager
    async def _registered(self, follower: Subscription) -> AsyncIterator[None]:
        place = follower.place
        self._followers.setdefault(place, set()).add(follower)
        try:
            yield
        finally:
            self._followers[place].discard(follower)
            if not self._followers[place]:
                del self._followers[place]

    def _take_place(self, follower: Subscription) -> None:
        """:raises TooManyFollowersError: all places are taken, and this owner has its share."""
        owner = follower.authority.owner
        while isinstance(answer := self._shares.ask(owner), Evict):
            oldest = next(iter(self._places[answer.owner]))
            oldest.close("outnumbered")
            self._leave_place(oldest)
        if answer == "refused":
            raise TooManyFollowersError(
                f"all {self._limits.followers_max} streams of this process are in use, and this owner has its share"
            )
        self._places.setdefault(owner, {})[follower] = None
        self._metrics.clients.set(self._limits.followers_max - self._shares.free)

    def _leave_place(self, follower: Subscription) -> None:
        """Idempotent: a follower may lose its place before it leaves."""
        owner = follower.authority.owner
        if follower not in self._places.get(owner, ()):
            return
        del self._places[owner][follower]
        if not self._places[owner]:
            del self._places[owner]
        self._shares.give_back(owner)
        self._metrics.clients.set(self._limits.followers_max - self._shares.free)

    async def _recheck(self) -> None:
        while True:
            await asyncio.sleep(RECHECK_S)
            for followers in self._followers.values():  # including those without a place
                for follower in followers:
                    if not follower.authority.still():
                        follower.close("not_allowed")

    def _close_all(self, why: Closed) -> None:
        for followers in self._followers.values():
            for follower in followers:
                follower.close(why)

    async def _run(self) -> None:
        at: tuple[int, int] | None = None
        away = False
        while True:
            if not self._wanted.is_set():
                at = None
                self._standing.clear()
                await self._wanted.wait()
            try:
                at = await self._advance(at)
                away = False
            except BackstopError as error:  # unreachable, or another release's schema: an operator or time repairs it
                if not away:
                    log.warning("feed_away", reason=str(error), passing=isinstance(error, DatabaseAwayError))
                away = True
                await asyncio.sleep(AWAY_S)

    async def _advance(self, at: tuple[int, int] | None) -> tuple[int, int]:
        """Deliver the changes after `at` (build, seq); returns the new position."""
        if at is None:
            found = await self._database.read(where_now)
            self._standing.set()
            return found
        build, seq = at
        await self._database.changed(seq, POLL_AGAIN_S)
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
    """The current build, and its last sequence number."""
    ((build,),) = conn.rows("SELECT value FROM meta WHERE name = 'build'")
    return int(build), last_seq(conn)
