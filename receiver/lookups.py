"""What the doors want to know of the read model, as they ask it. Whoever composes the process answers from a database."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from backstop.runtime.errors import BackstopError
from receiver.access.quotas import Load
from schemas.results import JobResult
from schemas.statuses import JobStatus


class ReadsAwayError(BackstopError):
    """Passing: the read model can't be asked at the moment."""


@dataclass(frozen=True, slots=True)
class SeenJob:
    """A job of the tenant that asked, as the read model has it."""

    status: JobStatus
    model: str | None
    submitted_at_ms: int
    request_sha256: str | None
    result: JobResult | None


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose response it is at the provider, and of which job."""

    tenant: str
    job_id: str


@dataclass(frozen=True, slots=True)
class KnownJob:
    """What the read model knows of a job id."""

    tenant: str
    request_sha256: str
    deadline_at_ms: int | None = None


class JobReads(Protocol):
    """Each method raises `ReadsAwayError` where the database is away."""

    async def find_job(self, job_id: str) -> KnownJob | None:
        """Of whatever tenant: what is needed to tell a repeat from a conflict."""

    async def job(self, tenant: str, job_id: str) -> SeenJob | None:
        """None for another tenant's, too. `job_id` is the qualified one."""

    async def owner_of(self, response_id: str) -> Owner | None:
        """Of a response at the provider, by the provider's id."""

    async def load(self, tenant: str, since_ms: int, job_ids: Collection[str]) -> Load:
        """What the tenant has open, and what it used up since then."""
