"""What both doors (HTTP and Kafka) do with a valid request: stamp the policy on it and make it a fact."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from runtime.authority import key_id_now
from runtime.blobs import BlobStore, put_body
from schemas.base import DEFAULT_TENANT
from schemas.codec import canonical, sha256_hex
from schemas.jobs import CancelRequested, JobPolicy, JobRefused, JobSubmitted
from schemas.requests import TIMEOUT_MS_MAX, Cancel, Submit

Door = Literal["http", "kafka"]


class DoorPolicy(BaseModel):
    """Defaults and limits that apply at the door. The relations between them are asserted at start."""

    model_config = ConfigDict(frozen=True)

    timeout_ms: int = Field(
        default=6 * 3_600_000,
        ge=1_000,
        le=TIMEOUT_MS_MAX,
        description="Deadline of a job that names none, from its submission.",
    )
    retries_max: int = Field(
        default=2, ge=0, le=10, description="Creates granted after an accepted one failed or was lost."
    )
    rejections_max: int = Field(
        default=100, ge=0, le=10_000, description="Creates granted after refusals (which cost nothing)."
    )
    backoff_base_ms: int = Field(default=1_000, ge=1, le=600_000, description="First wait of the exponential backoff.")
    backoff_max_ms: int = Field(
        default=60_000, ge=1, le=3_600_000, description="Longest wait of the backoff, unless an answer asks for more."
    )
    command_valid_ms: int = Field(
        default=60_000, ge=100, le=3_600_000, description="How long a create command may wait to be sent."
    )
    create_timeout_ms: int = Field(
        default=45_000, ge=100, le=600_000, description="Time of one create call, over all its parts."
    )
    adoption_grace_ms: int = Field(
        default=60_000,
        ge=0,
        le=3_600_000,
        description="How long an unknown submission is left for a webhook to bring back.",
    )
    missing_grace_ms: int = Field(
        default=30_000, ge=0, le=600_000, description="How long after acceptance a 404 still means not yet."
    )
    forget_after_ms: int = Field(default=7 * 86_400_000, ge=1_000, description="How long a finished job is remembered.")

    def stamp(self, retries_max: int | None) -> JobPolicy:
        margin_ms = max(1_000, self.create_timeout_ms // 10)
        return JobPolicy(
            retries_max=self.retries_max if retries_max is None else retries_max,
            rejections_max=self.rejections_max,
            backoff_base_ms=self.backoff_base_ms,
            backoff_max_ms=self.backoff_max_ms,
            command_valid_ms=self.command_valid_ms,
            word_timeout_ms=self.command_valid_ms + self.create_timeout_ms + margin_ms,
            adoption_grace_ms=self.adoption_grace_ms,
            missing_grace_ms=self.missing_grace_ms,
            forget_after_ms=self.forget_after_ms,
        )


def qualified_job_id(tenant: str, given: str) -> str:
    """The job id under which a tenant's own id is kept. The default tenant's ids stay as they are; any other tenant's
    get its name before them, so that no tenant can name another's job.
    """
    return given if tenant == DEFAULT_TENANT else f"{tenant}:{given}"


def own_job_id(tenant: str, job_id: str) -> str:
    """The other way: what the tenant calls the job. This is what it gets to see."""
    return job_id if tenant == DEFAULT_TENANT else job_id.removeprefix(f"{tenant}:")


def submission_bytes(submit: Submit) -> bytes:
    """The submission without its id: equal for a repeat, different for another one under the same id."""
    return canonical(submit.model_dump(mode="json", exclude={"job_id"}, exclude_none=True))


def submission_sha256(submit: Submit) -> str:
    """Equal for a repeat of the same submission, different for another one under the same id."""
    return sha256_hex(submission_bytes(submit))


async def to_submitted(
    submit: Submit, *, job_id: str, tenant: str, door: Door, at_ms: int, policy: DoorPolicy, blobs: BlobStore,
    inline_bytes_max: int,
) -> JobSubmitted:  # fmt: skip
    """The fact for a submission; its body is durable (a blob, where large) before this returns.

    The caller has already checked that an explicit deadline is not past.
    """
    deadline_at_ms = submit.deadline_at_ms
    if deadline_at_ms is None:
        deadline_at_ms = at_ms + (submit.timeout_ms or policy.timeout_ms)
    sha256 = submission_sha256(submit)
    return JobSubmitted(
        id=f"{job_id}/submitted/{sha256[:16]}",
        at_ms=at_ms,
        job_id=job_id,
        tenant=tenant,
        door=door,
        model=str(submit.request["model"]),
        request=await put_body(blobs, submit.request, inline_bytes_max),
        request_sha256=sha256,
        deadline_at_ms=min(deadline_at_ms, at_ms + TIMEOUT_MS_MAX),
        policy=policy.stamp(submit.retries_max),
        session_id=submit.session_id,
        tags=submit.tags,
        asked_by=key_id_now(),
    )


def to_cancel(cancel: Cancel, *, job_id: str, tenant: str, door: Door, at_ms: int) -> CancelRequested:
    return CancelRequested(
        id=f"{job_id}/cancel",
        at_ms=at_ms,
        job_id=job_id,
        tenant=tenant,
        door=door,
        reason=cancel.reason,
        asked_by=key_id_now(),
    )


def to_refused(job_id: str, tenant: str, code: str, message: str, at_ms: int, policy: DoorPolicy) -> JobRefused:
    """The fact that ends a job as `rejected`, where nothing but its id could be read."""
    return JobRefused(
        id=f"{job_id}/refused",
        at_ms=at_ms,
        job_id=job_id,
        tenant=tenant,
        code=code,
        message=message[:500],
        forget_after_ms=policy.forget_after_ms,
    )
