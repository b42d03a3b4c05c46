"""The read model as the receiver's ingress queries it. `receiver.reads.lookups` implements it over the database."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from backstop.runtime.errors import BackstopError
from receiver.access.quotas import Load
from schemas.results import JobResult
from schemas.statuses import JobStatus


class ReadsAwayError(BackstopError):
    """The read model is not reachable. Transient: ask again."""


@dataclass(frozen=True, slots=True)
class SeenJob:
    """A job of the asking tenant, as the read model has it."""

    status: JobStatus
    model: str | None
    submitted_at_ms: int
    request_sha256: str | None
    result: JobResult | None


@dataclass(frozen=True, slots=True)
class ResponseOwner:
    """The job to which a response at the provider belongs, and the job's tenant."""

    tenant: str
    job_id: str


@dataclass(frozen=True, slots=True)
class KnownJob:
    """What the read model has under a job id, of any tenant."""

    tenant: str
    request_sha256: str
    deadline_at_ms: int | None = None


class JobReads(Protocol):
    """Each method raises `ReadsAwayError` if the database is not reachable."""

    async def find_job(self, job_id: str) -> KnownJob | None:
        """The job of any tenant under this qualified id: enough to distinguish a repeat from a conflict."""

    async def job(self, tenant: str, job_id: str) -> SeenJob | None:
        """The tenant's job; None also for another tenant's. `job_id` is the qualified id."""

    async def owner_of(self, response_id: str) -> ResponseOwner | None:
        """The owner of a response, by the provider's response id."""

    async def load(self, tenant: str, since_ms: int, job_ids: Collection[str]) -> Load:
        """The tenant's open jobs, the tokens of its jobs that ended since `since_ms`, the known ones of `job_ids`."""
