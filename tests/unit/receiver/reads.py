"""A read model in memory, as the doors ask it. It can be away."""

from collections.abc import Collection
from typing import Any

from receiver.quotas import Load
from receiver.reads import Owner, ReadsAwayError, SeenJob
from receiver.submissions import KnownJob
from runtime.door import qualified_job_id


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

    async def owner_of(self, response_id: str) -> Owner | None:
        self._ask()
        found = self.owners.get(response_id)
        return None if found is None else Owner(*found)

    async def load(self, tenant: str, since_ms: int, job_ids: Collection[str]) -> Load:
        self._ask()
        self.since_ms = since_ms
        return self.load_of.get(tenant, Load(0, 0, frozenset()))

    def _ask(self) -> None:
        if self.away:
            raise ReadsAwayError("the database is away")
