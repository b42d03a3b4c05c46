"""A read model in memory, as the receiver queries it. Tests can make it unreachable."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from typing import Any

from backstop.runtime.authority import Authority
from receiver.access.quotas import Load
from receiver.lookups import KnownJob, ReadsAwayError, ResponseOwner, SeenJob
from schemas.job_ids import qualified_job_id


class MemoryReads:
    def __init__(self) -> None:
        self.away = False
        self.jobs: dict[str, tuple[str, SeenJob]] = {}
        self.owners: dict[str, tuple[str, str]] = {}
        self.load_of: dict[str, Load] = {}
        self.since_ms: int | None = None

    def add(self, tenant: str, given: str, **seen: Any) -> None:
        fields = {
            "status": "submitting",
            "model": "m",
            "submitted_at_ms": 1_000,
            "request_sha256": None,
            "result": None,
        }
        self.jobs[qualified_job_id(tenant, given)] = (tenant, SeenJob(**{**fields, **seen}))

    async def find_job(self, job_id: str) -> KnownJob | None:
        self._ask()
        found = self.jobs.get(job_id)
        return None if found is None else KnownJob(found[0], found[1].request_sha256 or "")

    async def job(self, tenant: str, job_id: str) -> SeenJob | None:
        self._ask()
        found = self.jobs.get(job_id)
        return found[1] if found is not None and found[0] == tenant else None

    async def owner_of(self, response_id: str) -> ResponseOwner | None:
        self._ask()
        found = self.owners.get(response_id)
        return None if found is None else ResponseOwner(*found)

    async def load(self, tenant: str, since_ms: int, job_ids: Collection[str]) -> Load:
        self._ask()
        self.since_ms = since_ms
        return self.load_of.get(tenant, Load(0, 0, frozenset()))

    def _ask(self) -> None:
        if self.away:
            raise ReadsAwayError("the database is away")


class MemoryChanges:
    """The changes of a read model in memory; `touch` reports one."""

    def __init__(self) -> None:
        self._queues: dict[str, set[asyncio.Queue[None]]] = {}
        self.error: Exception | None = None

    @property
    def watchers(self) -> int:
        return sum(len(queues) for queues in self._queues.values())

    def touch(self, job_id: str) -> None:
        for queue in self._queues.get(job_id, ()):
            queue.put_nowait(None)

    @asynccontextmanager
    async def watch(
        self, _tenant: str, job_id: str, authority: Authority, *, end_only: bool = False
    ) -> AsyncIterator["_Watch"]:
        del end_only  # `touch` is called where it is told of
        if self.error is not None:
            raise self.error
        queue: asyncio.Queue[None] = asyncio.Queue()
        self._queues.setdefault(job_id, set()).add(queue)
        try:
            yield _Watch(queue, authority)
        finally:
            self._queues[job_id].discard(queue)


class _Watch:
    def __init__(self, queue: "asyncio.Queue[None]", authority: Authority) -> None:
        self._queue = queue
        self._authority = authority

    @property
    def over(self) -> bool:
        return not self._authority.still()

    async def changed(self, timeout_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._queue.get()
        return True
