"""Implements the lookups of the receiver's ingress over the read model's database."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import TypeVar

from backstop.readmodel.database import Database, DatabaseAwayError, Work
from backstop.readmodel.feed import OVER, ChangeFeed, Subscription, TooManyFollowersError
from backstop.readmodel.queries import find_known, find_owner, find_row, tenant_load
from backstop.runtime.authority import Authority
from receiver.access.quotas import Load
from receiver.lookups import KnownJob, ReadsAwayError, ResponseOwner, SeenJob
from receiver.partial_output.listeners import TooManyListenersError
from schemas.codec import decode
from schemas.results import RESULT

T = TypeVar("T")


class DatabaseReads:
    """Implements `receiver.lookups.JobReads`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_job(self, job_id: str) -> KnownJob | None:
        known = await self._read(lambda conn: find_known(conn, job_id))
        # A rejected job has no hash; no submission equals the empty one, so its id is a conflict for each.
        return None if known is None else KnownJob(known.tenant, known.request_sha256 or "")

    async def job(self, tenant: str, job_id: str) -> SeenJob | None:
        row = await self._read(lambda conn: find_row(conn, tenant, job_id))
        if row is None:
            return None
        result = None if row.result is None else decode(RESULT, row.result)
        return SeenJob(row.status, row.model, row.submitted_at_ms, row.request_sha256, result)

    async def owner_of(self, response_id: str) -> ResponseOwner | None:
        found = await self._read(lambda conn: find_owner(conn, response_id))
        return None if found is None else ResponseOwner(*found)

    async def load(self, tenant: str, since_ms: int, job_ids: Collection[str]) -> Load:
        found = await self._read(lambda conn: tenant_load(conn, tenant, since_ms, tuple(job_ids)))
        return Load(found.open_jobs, found.tokens, found.known)

    async def _read(self, work: Work[T]) -> T:
        try:
            return await self._database.read(work)
        except DatabaseAwayError as error:
            raise ReadsAwayError(str(error)) from error


class FeedChanges:
    """Implements `receiver.partial_output.listeners.Changes`."""

    def __init__(self, feed: ChangeFeed) -> None:
        self._feed = feed

    @asynccontextmanager
    async def watch(
        self, tenant: str, job_id: str, authority: Authority, *, end_only: bool = False
    ) -> AsyncIterator["_Watch"]:
        wanted = Subscription(tenant, job_id=job_id, end_only=end_only, authority=authority)
        try:
            async with self._feed.follow(wanted) as follower:
                yield _Watch(follower)
        except TooManyFollowersError as error:
            raise TooManyListenersError(str(error)) from error
        except DatabaseAwayError as error:
            raise ReadsAwayError(str(error)) from error


class _Watch:
    def __init__(self, follower: Subscription) -> None:
        self._follower = follower

    async def changed(self, timeout_s: float) -> bool:
        await self._follower.next(timeout_s)
        return self._follower.closed is None

    @property
    def over(self) -> bool:
        return self._follower.closed in OVER or not self._follower.authority.still()
