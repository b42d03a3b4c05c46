"""What both doors (HTTP and Kafka) do with a valid request: stamp the policy on it and make it a fact."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from backstop.runtime.authority import key_id_now
from backstop.runtime.blobs import BlobStore, put_canonical
from schemas.base import DEFAULT_TENANT
from schemas.codec import canonical, sha256_hex
from schemas.jobs import CancelRequested, JobPolicy, JobRefused, JobSubmitted, ResponseAdopted
from schemas.project_names import Named, first_foreign, named_in
from schemas.requests import TIMEOUT_MS_MAX, Adopt, Cancel, Submit
from schemas.windows import default_deadline_ms, include_of, window_ms_of

Ingress = Literal["http", "kafka"]
CREATE_TIMEOUT_MS_MAX = 6 * 3_600_000
"""Of a server that answers a create when the run is over."""

_REQUEST = b'"request":'

ADOPTED_POLL_AGAIN_MS = 20_000
"""The poll after the first, which is made at once. What that one brings sets the time of the next."""


class SubmissionPolicy(BaseModel):
    """Defaults and limits that apply at the door. The relations between them are asserted at start."""

    model_config = ConfigDict(frozen=True)

    timeout_ms: int = Field(
        default=6 * 3_600_000,
        ge=1_000,
        le=TIMEOUT_MS_MAX,
        description="Deadline of a job that names none, from its submission.",
    )
    retries_max: int = Field(
        default=2,
        ge=0,
        le=10,
        description="Creates granted after one that was paid, or may have been: it failed with usage, vanished, or was never heard of.",
    )
    rejections_max: int = Field(
        default=10_000, ge=0, le=100_000, description="Creates granted after refusals (which cost nothing)."
    )
    unpaid_ends_max: int = Field(
        default=100,
        ge=0,
        le=10_000,
        description="Creates granted after an accepted one failed without usage (these cost nothing either).",
    )
    doubts_max: int = Field(
        default=12,
        ge=0,
        le=1_000,
        description="Creates granted after a 5xx that proves nothing: most often nothing was taken.",
    )
    on_account: Literal["wait", "fail"] = Field(
        default="wait",
        description="What a condition of the account (key, quota, billing, permission) does to a job: it waits until that is mended, or fails.",
    )
    backoff_base_ms: int = Field(default=1_000, ge=1, le=600_000, description="First wait of the exponential backoff.")
    backoff_max_ms: int = Field(
        default=60_000, ge=1, le=3_600_000, description="Longest wait of the backoff, unless an answer asks for more."
    )
    command_valid_ms: int = Field(
        default=60_000, ge=100, le=3_600_000, description="How long a create command may wait to be sent."
    )
    create_timeout_ms: int = Field(
        default=45_000,
        ge=100,
        le=CREATE_TIMEOUT_MS_MAX,
        description="Time of one create call, over all its parts; stamped on each job. A server that ignores `background` answers when the run is "
        "over: then longer than the longest run (docs/operating.md says what else).",
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
    missing_patience_ms: int = Field(
        default=120_000,
        ge=0,
        le=3_600_000,
        description="For how long a known response must be answered with 404, without a break, before it is given up.",
    )
    stuck_after_ms: int | None = Field(
        default=None,
        ge=1_000,
        le=TIMEOUT_MS_MAX,
        description="A response without any change for so long, while others end, is cancelled and tried again, if the job may spend that. Unset: never.",
    )
    stuck_factor: float | None = Field(
        default=None,
        gt=1,
        le=1_000,
        description="The same as a multiple of what 9 of 10 runs of the model take, once known; with both, the longer one counts.",
    )
    forget_after_ms: int = Field(default=7 * 86_400_000, ge=1_000, description="How long a finished job is remembered.")

    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s?#]{1,200}$",
        description="Where callers reach `backstop serve` (https://backstop.example.com). Set, and a result on Kafka whose output is too large for its record "
        "has `response_url`, the address of that output for any key of the tenant with `read`.",
    )
    retries_granted_max: int = Field(
        default=10,
        ge=0,
        le=10,
        description="Most retries that a submission may ask for; what asks for more gets these.",
    )
    shared_ids: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Ids at the provider (files, vector stores, prompts, fine-tuned models, ...) that all tenants may name, comma-separated; "
        "one that ends in * stands for all that begin so. The tenant default may name any.",
    )

    @field_validator("shared_ids", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _relations(self) -> Self:
        if self.command_valid_ms + self.create_timeout_ms >= self.timeout_ms:
            raise ValueError(
                "timeout_ms must be above command_valid_ms and create_timeout_ms together: a job's deadline must not pass while its first create "
                "may still be answered"
            )
        return self

    def refuses_name(self, request: Mapping[str, Any], tenant: str) -> Named | None:
        """The first thing of the project at the provider that `request` names and `tenant` may not. All tenants share that project."""
        return None if tenant == DEFAULT_TENANT else first_foreign(named_in(request), self.shared_ids)

    def stamp(self, retries_max: int | None) -> JobPolicy:
        margin_ms = max(1_000, self.create_timeout_ms // 10)
        return JobPolicy(
            retries_max=min(self.retries_max if retries_max is None else retries_max, self.retries_granted_max),
            rejections_max=self.rejections_max,
            backoff_base_ms=self.backoff_base_ms,
            backoff_max_ms=self.backoff_max_ms,
            command_valid_ms=self.command_valid_ms,
            create_timeout_ms=self.create_timeout_ms,
            report_timeout_ms=self.command_valid_ms + self.create_timeout_ms + margin_ms,
            adoption_grace_ms=self.adoption_grace_ms,
            missing_grace_ms=self.missing_grace_ms,
            unpaid_ends_max=self.unpaid_ends_max,
            doubts_max=self.doubts_max,
            on_account=self.on_account,
            missing_patience_ms=self.missing_patience_ms,
            stuck_after_ms=self.stuck_after_ms,
            stuck_factor=self.stuck_factor,
            forget_after_ms=self.forget_after_ms,
            public_url=self.public_url,
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A submission and its one canonical form, made once: a large body is worth it."""

    submit: Submit
    data: bytes
    """The submission without its id, as canonical JSON: equal for a repeat, different for another one under the same id."""
    sha256: str
    """Of `data`."""
    request_json: memoryview
    """The part of `data` that is the request."""

    @property
    def deadline_at_ms(self) -> int | None:
        return self.submit.deadline_at_ms


def prepare(submit: Submit) -> Prepared:
    """Costs as much as the body is large: not to be done on the loop for a large one."""
    rest = submit.model_dump(mode="json", exclude={"job_id", "request"}, exclude_none=True)
    # The bytes name a job's submission for good: never change their form.
    data = canonical(rest | {"request": submit.request})
    frame = canonical(rest | {"request": 0})
    begins = frame.index(_REQUEST) + len(_REQUEST)  # only deadline_at_ms, a number, comes before it
    ends = len(data) - (len(frame) - begins - 1)
    return Prepared(submit, data, sha256_hex(data), memoryview(data)[begins:ends])


def submission_sha256(submit: Submit) -> str:
    """Equal for a repeat of the same submission, different for another one under the same id."""
    return prepare(submit).sha256


@dataclass(frozen=True, slots=True)
class PreparedAdoption:
    """An adoption and its one canonical form. It names the response alone: whoever asks again means the same job."""

    adopt: Adopt

    @property
    def data(self) -> bytes:
        return canonical({"type": "adopt", "response_id": self.adopt.response_id})

    @property
    def sha256(self) -> str:
        return sha256_hex(self.data)

    @property
    def deadline_at_ms(self) -> int | None:
        return self.adopt.deadline_at_ms

    @property
    def given_job_id(self) -> str:
        """What its tenant calls the job. Never change its form: an adoption that is repeated would be another job."""
        return f"adopted_{sha256_hex(self.adopt.response_id.encode())[:32]}"


def to_adopted(
    prepared: PreparedAdoption, *, job_id: str, tenant: str, at_ms: int, policy: SubmissionPolicy
) -> ResponseAdopted:
    """The fact for an adoption. As with `to_submitted`, an explicit deadline is not past."""
    adopt = prepared.adopt
    deadline_at_ms = adopt.deadline_at_ms
    if deadline_at_ms is None:
        deadline_at_ms = at_ms + (adopt.timeout_ms or policy.timeout_ms)
    return ResponseAdopted(
        id=f"{job_id}/adopted",
        at_ms=at_ms,
        job_id=job_id,
        tenant=tenant,
        ingress="http",
        response_id=adopt.response_id,
        request_sha256=prepared.sha256,
        deadline_at_ms=min(deadline_at_ms, at_ms + TIMEOUT_MS_MAX),
        poll_at_ms=at_ms + ADOPTED_POLL_AGAIN_MS,
        policy=policy.stamp(0),
        include=adopt.include or None,
        session_id=adopt.session_id,
        tags=adopt.tags,
        asked_by=key_id_now(),
    )


async def to_submitted(
    prepared: Prepared, *, job_id: str, tenant: str, ingress: Ingress, at_ms: int, policy: SubmissionPolicy, blobs: BlobStore,
    inline_bytes_max: int,
) -> JobSubmitted:  # fmt: skip
    """The fact for a submission; its body is durable (a blob, where large) before this returns.

    The caller has already checked that an explicit deadline is not past.
    """
    submit, sha256 = prepared.submit, prepared.sha256
    deadline_at_ms = submit.deadline_at_ms
    if deadline_at_ms is None:
        deadline_at_ms = at_ms + (submit.timeout_ms or default_deadline_ms(submit.request, policy.timeout_ms))
    return JobSubmitted(
        id=f"{job_id}/submitted/{sha256[:16]}",
        at_ms=at_ms,
        job_id=job_id,
        tenant=tenant,
        ingress=ingress,
        model=str(submit.request["model"]),
        request=await put_canonical(blobs, submit.request, prepared.request_json, inline_bytes_max),
        request_sha256=sha256,
        deadline_at_ms=min(deadline_at_ms, at_ms + TIMEOUT_MS_MAX),
        policy=policy.stamp(submit.retries_max),
        include=include_of(submit.request) or None,
        window_ms=window_ms_of(submit.request),
        session_id=submit.session_id,
        tags=submit.tags,
        asked_by=key_id_now(),
    )


def to_cancel(cancel: Cancel, *, job_id: str, tenant: str, ingress: Ingress, at_ms: int) -> CancelRequested:
    return CancelRequested(
        id=f"{job_id}/cancel",
        at_ms=at_ms,
        job_id=job_id,
        tenant=tenant,
        ingress=ingress,
        reason=cancel.reason,
        asked_by=key_id_now(),
    )


def to_refused(job_id: str, tenant: str, code: str, message: str, at_ms: int, policy: SubmissionPolicy) -> JobRefused:
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
