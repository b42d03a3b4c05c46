"""Erasures: what an operator had erased, by whom and why, on `erasures`; and the fact of each erased job, on `jobs`.

`erasures` is compacted by request, so that each erasure stays for ever. The projection follows it, and does the work
(`backstop.readmodel.erasing`).
"""

import hashlib
from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter

from schemas.base import Frozen, Int64, JobId, JobMessage, Message, StampMs, TenantId, UnixMs
from schemas.pauses import By, TagName, Why
from schemas.results import JobResult, Reason

SUBJECT_TAG = "subject:"
"""A job is about a person if it has the tag `subject:PERSON`."""


class ErasureScope(Frozen):
    """The jobs that an erasure takes: those of the tenant that fit all given fields."""

    tenant: TenantId
    job_id: JobId | None = None
    """As the logs have it: with the tenant's prefix."""
    session_id: str | None = None
    tag: TagName | None = None

    @property
    def erasure_id(self) -> str:
        """The same for the same scope. Never change its form: an erasure that is done would be done again."""
        return f"erasure_{hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]}"

    @property
    def words(self) -> str:
        """`tenant acme, session_id s1`."""
        return ", ".join(f"{name} {value}" for name, value in self.model_dump().items() if value is not None)


class ErasureMessage(Message):
    topic: ClassVar[str] = "erasures"
    scope: ErasureScope
    by: By
    """The person, as given."""
    why: Why
    at_provider: bool
    """Whether the responses are deleted at the provider, too."""
    submitted_until_ms: UnixMs
    """Jobs that were submitted later are left alone."""

    @property
    def key(self) -> str:
        """Each request has its own: the end of one must not stand for another one of the same scope."""
        return f"{self.scope.erasure_id}/{self.submitted_until_ms}"


class ErasureRequested(ErasureMessage):
    type: Literal["erasure_requested"] = "erasure_requested"


class ErasureDone(ErasureMessage):
    """Each job of the scope is erased. The figures count what this process did; a crash before it did some of it."""

    type: Literal["erasure_done"] = "erasure_done"
    requested_at_ms: StampMs
    jobs: Int64
    blobs: Int64
    """Blobs that were removed."""
    blobs_shared: Int64
    """Blobs that stay, as jobs outside of the scope refer to them."""
    responses: Int64
    """Responses that the provider deleted, or no longer has."""


ErasureFact = ErasureRequested | ErasureDone
ERASURE_FACT: TypeAdapter[ErasureFact] = TypeAdapter(Annotated[ErasureFact, Field(discriminator="type")])


class JobErased(JobMessage):
    """An operator had the job erased: its blobs, its response at the provider and its record on `results` are gone.

    It holds what stays of the result, so that the read model needs no other record to show the job.
    """

    topic: ClassVar[str] = "jobs"
    type: Literal["job_erased"] = "job_erased"
    tenant: TenantId
    erasure_id: str
    by: By
    why: Why
    result: JobResult


def without_content(result: JobResult, at_ms: int) -> JobResult:
    """What stays of a result: ids, outcome, times and counts. No text of a caller or of the provider."""
    reason, fallbacks = result.reason, result.fallbacks
    return result.model_copy(
        update={
            "response": None, "response_url": None, "session_id": None, "tags": (), "erased_at_ms": at_ms,
            "reason": None if reason is None else Reason(code=reason.code, http_status=reason.http_status),
            "fallbacks": fallbacks and tuple(brief.model_copy(update={"message": ""}) for brief in fallbacks),
        }
    )  # fmt: skip
