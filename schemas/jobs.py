"""The facts of a job: the union of what stands on the `jobs` log, keyed by job id."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter

from schemas.base import Blame, Body, FoundBy, Frozen, JobMessage, KeyId, ResponseId, SpanMs, TenantId, UnixMs, Usage


class JobPolicy(Frozen):
    """The rules that applied when the job was taken, stamped on it so that a refold months later decides the same."""

    retries_max: int
    """Creates granted after an accepted one failed, vanished, or was never heard of."""
    rejections_max: int
    """Creates granted after a refusal; refusals cost no tokens."""
    backoff_base_ms: SpanMs
    backoff_max_ms: SpanMs
    command_valid_ms: SpanMs
    """How long a create command may wait to be sent; the submitter drops an older one."""
    word_timeout_ms: SpanMs
    """From the command to the moment its outcome counts as unknown: command_valid_ms + one API timeout + a margin."""
    adoption_grace_ms: SpanMs
    """How long an unknown submission is left for a webhook to bring back, before it is repeated."""
    missing_grace_ms: SpanMs
    """How long after acceptance a 404 still means "not yet"."""
    forget_after_ms: SpanMs
    """How long a finished job is remembered: the window in which a repeated submission is known as one."""


class JobSubmitted(JobMessage):
    topic: ClassVar[str] = "jobs"
    type: Literal["job_submitted"] = "job_submitted"
    tenant: TenantId
    door: Literal["http", "kafka"]
    model: str
    request: Body
    request_sha256: str
    """Of the canonical submission without its id and times: equal for a repeat, different for a conflict."""
    deadline_at_ms: UnixMs
    policy: JobPolicy
    session_id: str | None = None
    tags: tuple[str, ...] = ()
    asked_by: KeyId | None = None
    """The API key that submitted it; None where there was none (Kafka, development)."""


class JobRefused(JobMessage):
    """A request whose job id could be read and nothing else: it ends the job with the outcome `rejected`."""

    topic: ClassVar[str] = "jobs"
    type: Literal["job_refused"] = "job_refused"
    tenant: TenantId
    code: str
    message: str
    forget_after_ms: SpanMs


class CancelRequested(JobMessage):
    topic: ClassVar[str] = "jobs"
    type: Literal["cancel_requested"] = "cancel_requested"
    tenant: TenantId
    door: Literal["http", "kafka"]
    reason: str | None = None
    asked_by: KeyId | None = None
    """As of `JobSubmitted`."""


class AttemptAccepted(JobMessage):
    """OpenAI has this attempt: its create was answered, or (`adopted`) its response was found by its metadata."""

    topic: ClassVar[str] = "jobs"
    type: Literal["attempt_accepted"] = "attempt_accepted"
    attempt: int = Field(ge=1)
    tenant: TenantId
    response_id: ResponseId
    status: str
    adopted: bool = False
    sent_at_ms: UnixMs | None = None
    look_at_ms: UnixMs
    """When to look for the first time; stamped by the writer's policy."""
    provider_request_id: str | None = None
    stream: Literal[True] | None = None
    """The provider answered with a stream: its partial output can be followed. Absent where it did not."""


class AttemptRejected(JobMessage):
    """OpenAI surely did not take it (or it was never sent)."""

    topic: ClassVar[str] = "jobs"
    type: Literal["attempt_rejected"] = "attempt_rejected"
    attempt: int = Field(ge=1)
    blame: Blame
    code: str
    message: str = ""
    http_status: int | None = None
    wait_ms: SpanMs = 0
    """The least wait that the answer asked for; 0 where it asked for none."""


class AttemptUnknown(JobMessage):
    """It was sent, and nobody heard whether it was taken."""

    topic: ClassVar[str] = "jobs"
    type: Literal["attempt_unknown"] = "attempt_unknown"
    attempt: int = Field(ge=1)
    reason: str


SettledStatus = Literal["completed", "failed", "incomplete", "cancelled", "missing"]


class AttemptSettled(JobMessage):
    """How an attempt's response ended, told once by the response fold."""

    topic: ClassVar[str] = "jobs"
    type: Literal["attempt_settled"] = "attempt_settled"
    attempt: int = Field(ge=1)
    response_id: ResponseId
    status: SettledStatus
    blame: Blame | None = None
    code: str | None = None
    message: str | None = None
    response: Body | None = None
    """The response object as retrieved."""
    usage: Usage | None = None
    found_by: FoundBy
    looks: int
    webhook_at_ms: UnixMs | None = None
    provider_created_at_ms: UnixMs | None = None
    provider_ended_at_ms: UnixMs | None = None


class JobTimerFired(JobMessage):
    """The time `due_ms` has come; the fold decides what that means, and ignores one that its state no longer expects."""

    topic: ClassVar[str] = "jobs"
    type: Literal["timer_fired"] = "timer_fired"
    due_ms: UnixMs


JobFact = Annotated[
    JobSubmitted
    | JobRefused
    | CancelRequested
    | AttemptAccepted
    | AttemptRejected
    | AttemptUnknown
    | AttemptSettled
    | JobTimerFired,
    Field(discriminator="type"),
]
JOB_FACT: TypeAdapter[
    JobSubmitted
    | JobRefused
    | CancelRequested
    | AttemptAccepted
    | AttemptRejected
    | AttemptUnknown
    | AttemptSettled
    | JobTimerFired
] = TypeAdapter(JobFact)
