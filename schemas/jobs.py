"""The facts of a job: the union of what stands on the `jobs` log, keyed by job id."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter, model_validator

from schemas.base import (
    Body,
    Cause,
    FoundBy,
    Frozen,
    JobMessage,
    KeyId,
    ResponseId,
    SpanMs,
    TenantId,
    UnixMs,
    Usage,
    cause_of_older,
)
from schemas.statuses import EndResponseStatus, SettledStatus


class JobPolicy(Frozen):
    """The rules that applied when the job was taken, stamped on it so that a refold months later decides the same."""

    retries_max: int
    """Creates granted after one that was paid, or may have been: it failed with usage, vanished, or was never heard of."""
    rejections_max: int
    """Creates granted after a refusal; refusals cost no tokens."""
    unpaid_ends_max: int = 100
    """Creates granted after an accepted one failed without usage; these cost no tokens either."""
    doubts_max: int = 12
    """Creates granted after a 5xx answer that does not prove a refusal: most often nothing was taken."""
    on_account: Literal["wait", "fail"] = "wait"
    """What a condition of the account (key, quota, billing, permission) does to the job."""
    backoff_base_ms: SpanMs
    backoff_max_ms: SpanMs
    command_valid_ms: SpanMs
    """How long a create command may wait to be sent; the submitter drops an older one."""
    create_timeout_ms: SpanMs | None = None
    """Time of one create call, over all its parts. Every process acts on this one value. None: submitted before jobs carried it."""
    report_timeout_ms: SpanMs
    """From the command to the moment its outcome counts as unknown: command_valid_ms + create_timeout_ms + a margin."""
    adoption_grace_ms: SpanMs
    """How long an unknown submission is left for a webhook to bring back, before it is repeated."""
    missing_grace_ms: SpanMs
    """How long after acceptance a 404 still means "not yet"."""
    missing_patience_ms: SpanMs = 120_000
    """For how long a response that was known must be answered with 404, without a break, before it is given up."""
    stuck_after_ms: SpanMs | None = None
    """A response without any change for so long is given up, if the job may spend another attempt. None: never."""
    stuck_factor: float | None = None
    """The same as a multiple of what runs of the model take, where that is known."""
    forget_after_ms: SpanMs
    """How long a finished job is remembered: the window in which a repeated submission is known as one."""
    public_url: str | None = None
    """Where the HTTP reads are found, for the address of a large output in its result."""


class JobSubmitted(JobMessage):
    topic: ClassVar[str] = "jobs"
    type: Literal["job_submitted"] = "job_submitted"
    tenant: TenantId
    ingress: Literal["http", "kafka"]
    model: str
    request: Body
    request_sha256: str
    """Of the canonical submission without its id and times: equal for a repeat, different for a conflict."""
    deadline_at_ms: UnixMs
    policy: JobPolicy
    include: tuple[str, ...] | None = None
    """`include` of the request: it goes out with each poll, too."""
    window_ms: SpanMs | None = None
    """The completion window that the request asks for, where it asks for one."""
    session_id: str | None = None
    tags: tuple[str, ...] = ()
    asked_by: KeyId | None = None
    """The API key that submitted it; None where there was none (Kafka, development)."""


class ResponseAdopted(JobMessage):
    """A response that an application created itself is to be seen through to one result: the only attempt of this job."""

    topic: ClassVar[str] = "jobs"
    type: Literal["response_adopted"] = "response_adopted"
    tenant: TenantId
    ingress: Literal["http"]
    response_id: ResponseId
    request_sha256: str
    """Of the canonical adoption, which is the response id alone: equal for a repeat, whatever its deadline."""
    deadline_at_ms: UnixMs
    poll_at_ms: UnixMs
    """When to poll again, should the first poll bring nothing."""
    policy: JobPolicy
    include: tuple[str, ...] | None = None
    session_id: str | None = None
    tags: tuple[str, ...] = ()
    asked_by: KeyId | None = None
    """As of `JobSubmitted`."""


class AdoptionRefused(JobMessage):
    """The response fold says: the response that this job adopted belongs to another job."""

    topic: ClassVar[str] = "jobs"
    type: Literal["adoption_refused"] = "adoption_refused"
    response_id: ResponseId
    message: str
    """For the job's owner: it names the other job only where that is the same tenant's."""


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
    ingress: Literal["http", "kafka"]
    reason: str | None = None
    asked_by: KeyId | None = None
    """As of `JobSubmitted`."""


class AttemptEnd(Frozen):
    """How a response ended that the create's own answer showed ended."""

    status: EndResponseStatus
    cause: Cause | None = None
    code: str | None = None
    message: str | None = None
    wait_ms: SpanMs = 0
    response: Body
    usage: Usage | None = None
    continuation_id: str | None = None
    provider_created_at_ms: UnixMs | None = None
    provider_ended_at_ms: UnixMs | None = None


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
    poll_at_ms: UnixMs
    """When to look for the first time; stamped by the writer's policy."""
    provider_request_id: str | None = None
    stream: Literal[True] | None = None
    """The provider answered with a stream: its partial output can be followed. Absent where it did not."""
    end: AttemptEnd | None = None
    """The answer already held the end: a server that ignores `background`, or that was quick."""


class AttemptRejected(JobMessage):
    """OpenAI surely did not take it (or it was never sent)."""

    topic: ClassVar[str] = "jobs"
    type: Literal["attempt_rejected"] = "attempt_rejected"
    attempt: int = Field(ge=1)
    cause: Cause
    code: str
    message: str = ""
    http_status: int | None = None
    wait_ms: SpanMs = 0
    """The least wait that the answer asked for; 0 where it asked for none."""
    held_for: Cause | None = None
    """Why the lane is closed. Absent where the cause is not `held`, or another limit than the lane's held the create."""

    _older = model_validator(mode="before")(cause_of_older)


class AttemptUnknown(JobMessage):
    """It was sent, and nobody heard whether it was taken."""

    topic: ClassVar[str] = "jobs"
    type: Literal["attempt_unknown"] = "attempt_unknown"
    attempt: int = Field(ge=1)
    reason: str
    """In words of ours."""
    message: str = ""
    """How the answer that could not be used began, in the provider's words."""
    answered: Literal[True] | None = None
    """It was answered, with a 5xx that proves nothing. Absent where there was no answer."""


class AttemptSettled(JobMessage):
    """How an attempt's response ended, told once by the response fold."""

    topic: ClassVar[str] = "jobs"
    type: Literal["attempt_settled"] = "attempt_settled"
    attempt: int = Field(ge=1)
    response_id: ResponseId
    status: SettledStatus
    cause: Cause | None = None
    code: str | None = None
    message: str | None = None
    wait_ms: SpanMs = 0
    """The least wait that the failure asked for; 0 where it asked for none."""
    response: Body | None = None
    """The response object as retrieved."""
    usage: Usage | None = None
    continuation_id: str | None = None
    """By which another create continues this one's completion window."""
    found_by: FoundBy
    polls: int
    webhook_at_ms: UnixMs | None = None
    provider_created_at_ms: UnixMs | None = None
    provider_ended_at_ms: UnixMs | None = None

    _older = model_validator(mode="before")(cause_of_older)


class UsageBooked(JobMessage):
    """Tokens that no result counts: of an attempt whose end was heard of after the job's, or of a second response of an attempt.

    Its id names the response: of two with one id, the one that is not `estimated` counts, else the first.
    """

    topic: ClassVar[str] = "jobs"
    type: Literal["usage_booked"] = "usage_booked"
    tenant: TenantId
    attempt: int = Field(ge=1)
    response_id: ResponseId
    usage: Usage
    estimated: Literal[True] | None = None
    """Reckoned from the output that was seen, as the provider told no usage. Absent where the provider counted."""


class JobTimerFired(JobMessage):
    """The time `due_ms` has come; the fold decides what that means, and ignores one that its state no longer expects."""

    topic: ClassVar[str] = "jobs"
    type: Literal["timer_fired"] = "timer_fired"
    due_ms: UnixMs


JobFact = Annotated[
    JobSubmitted
    | ResponseAdopted
    | AdoptionRefused
    | JobRefused
    | CancelRequested
    | AttemptAccepted
    | AttemptRejected
    | AttemptUnknown
    | AttemptSettled
    | UsageBooked
    | JobTimerFired,
    Field(discriminator="type"),
]
JOB_FACT: TypeAdapter[
    JobSubmitted
    | ResponseAdopted
    | AdoptionRefused
    | JobRefused
    | CancelRequested
    | AttemptAccepted
    | AttemptRejected
    | AttemptUnknown
    | AttemptSettled
    | UsageBooked
    | JobTimerFired
] = TypeAdapter(JobFact)
