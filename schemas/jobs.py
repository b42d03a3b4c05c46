"""The facts of a job: the union of the records on the log `jobs`, keyed by job id."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter, model_validator

from schemas.base import (
    Body,
    Cause,
    FoundBy,
    Frozen,
    Int64,
    JobId,
    JobMessage,
    KeyId,
    LatencyClass,
    PollBasis,
    Priority,
    ResponseId,
    SpanMs,
    TenantId,
    Terms,
    UnixMs,
    Usage,
    cause_of_older,
)
from schemas.erasures import JobErased
from schemas.fallbacks import Fallbacks
from schemas.hedges import HedgePermit
from schemas.prompt_cache import PromptCache
from schemas.spend_caps import SpendCap
from schemas.statuses import EndResponseStatus, SettledStatus
from schemas.told_limits import ToldLimits
from schemas.traces import Traceparent


class JobPolicy(Frozen):
    """The rules in force at the submission, stamped on the job, so that a later refold decides the same."""

    retries_max: Int64
    """Retries granted after attempts that were or may have been paid: failed with usage, missing, stuck, unknown."""
    rejections_max: Int64
    """Retries granted after refusals, which cost no tokens."""
    unpaid_ends_max: Int64 = 100
    """Retries granted after accepted attempts that failed without usage, which cost no tokens either."""
    doubts_max: Int64 = 12
    """Retries granted after 5xx answers that don't prove a refusal. Mostly, the provider took nothing."""
    on_account: Literal["wait", "fail"] = "wait"
    """Whether the job waits or fails at a condition of the account (key, quota, billing, permission)."""
    backoff_base_ms: SpanMs
    backoff_max_ms: SpanMs
    command_valid_ms: SpanMs
    """How long a create command may wait to be sent. The submitter drops older commands."""
    create_timeout_ms: SpanMs | None = None
    """Time limit of one create call as a whole, used by all processes. None: the job is older than this field."""
    report_timeout_ms: SpanMs
    """From the create command to the report deadline: command_valid_ms + create_timeout_ms + a margin."""
    adoption_grace_ms: SpanMs
    """How long an attempt with an unknown outcome may be adopted before it is abandoned and a retry is granted."""
    missing_grace_ms: SpanMs
    """How long after acceptance a 404 still means "not yet"."""
    missing_patience_ms: SpanMs = 120_000
    """How long polls must be answered with 404, without a break, before a response is given up."""
    stuck_after_ms: SpanMs | None = None
    """A response without any change for this long is given up, if the job has a retry left. None: never."""
    stuck_factor: float | None = None
    """`stuck_after_ms` as a multiple of the model's typical run time, if that is known."""
    forget_after_ms: SpanMs
    """How long a finished job is remembered. Within this time a repeated submission is recognised."""
    public_url: str | None = None
    """The public address of the HTTP reads, used for the address of a large output in the result."""
    hedge: Literal[True] | None = None
    """The job may have a second attempt beside a slow one, once."""
    tags_sent: Literal[True] | None = None
    """The job's tags go along with its create commands. Absent for jobs without tags, and of older releases."""


class Turn(Frozen):
    """How the job waits for its turn under the limits."""

    waits: Literal[True] | None = None
    """The first attempt begins with `JobAdmitted`. Absent: it begins with this fact."""
    priority: Priority = "normal"
    not_before_ms: UnixMs | None = None
    request_bytes: Int64 = Field(default=0, ge=0)
    output_tokens_max: Int64 | None = None
    """`max_output_tokens` of the request."""


class RetryOf(Frozen):
    """The ended job whose request this job repeats, and who decided so."""

    job_id: JobId
    why: str = Field(max_length=200)
    by: str | None = Field(default=None, max_length=100)


class JobSubmitted(JobMessage):
    topic: ClassVar[str] = "jobs"
    type: Literal["job_submitted"] = "job_submitted"
    tenant: TenantId
    ingress: Literal["http", "kafka"]
    model: str
    request: Body
    request_sha256: str
    """Hash of the canonical submission without its id: equal for a repeat, different for a conflict."""
    deadline_at_ms: UnixMs
    policy: JobPolicy
    include: tuple[str, ...] | None = None
    """`include` of the request: also sent with each poll."""
    window_ms: SpanMs | None = None
    """The completion window that the request asks for; None for none."""
    session_id: str | None = None
    tags: tuple[str, ...] = ()
    asked_by: KeyId | None = None
    """The API key of the submission; None if there was none (Kafka, development)."""
    turn: Turn | None = None
    """None: no limits are set, and the submission asks for none of this."""
    prompt_cache: PromptCache | None = None
    """Absent where the submission names no `prompt_cache_key`, and no rule makes one."""
    retry: RetryOf | None = None
    """Absent where the job repeats no other one."""
    cap: SpendCap | None = None
    """Absent where the submission names no cap."""
    fallback: Fallbacks | None = None
    """Absent where neither the submission nor a rule names one."""
    traceparent: Traceparent | None = None


class ResponseAdopted(JobMessage):
    """A client asked to adopt a response that an application created. The response is the only attempt of this job."""

    topic: ClassVar[str] = "jobs"
    type: Literal["response_adopted"] = "response_adopted"
    tenant: TenantId
    ingress: Literal["http"]
    response_id: ResponseId
    request_sha256: str
    """Hash of the canonical adoption, which is the response id alone: equal for a repeat, whatever its deadline."""
    deadline_at_ms: UnixMs
    poll_at_ms: UnixMs
    """When to poll again if the first poll brings no observation."""
    policy: JobPolicy
    include: tuple[str, ...] | None = None
    session_id: str | None = None
    tags: tuple[str, ...] = ()
    asked_by: KeyId | None = None
    """As in `JobSubmitted`."""


class AdoptionRefused(JobMessage):
    """The response fold says that the response that this job adopted belongs to another job."""

    topic: ClassVar[str] = "jobs"
    type: Literal["adoption_refused"] = "adoption_refused"
    response_id: ResponseId
    message: str
    """For the job's tenant. It names the other job only if that belongs to the same tenant."""


class JobRefused(JobMessage):
    """A request of which only the job id could be used. It ends the job with the outcome `rejected`."""

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
    """As in `JobSubmitted`."""


class JobChanged(JobMessage):
    """An operator changed an open job. What is absent stays as it is."""

    topic: ClassVar[str] = "jobs"
    type: Literal["job_changed"] = "job_changed"
    tenant: TenantId
    ingress: Literal["http"]
    priority: Priority | None = None
    """The class in which the job waits for its turns from now on."""
    deadline_at_ms: UnixMs | None = None
    """The new deadline. One that has passed ends the job."""
    why: str = Field(max_length=200)
    by: str | None = Field(default=None, max_length=100)
    asked_by: KeyId | None = None
    """As in `JobSubmitted`."""


class AttemptEnd(Frozen):
    """How a response ended, if the answer to the create already showed the end."""

    status: EndResponseStatus
    cause: Cause | None = None
    code: str | None = None
    message: str | None = None
    said_by: Literal["backstop"] | None = None
    """`backstop`: `message` is Backstop's own text. Absent: it is the provider's."""
    wait_ms: SpanMs = 0
    response: Body
    usage: Usage | None = None
    terms: Terms | None = None
    continuation_id: str | None = None
    provider_created_at_ms: UnixMs | None = None
    provider_ended_at_ms: UnixMs | None = None


class AttemptAccepted(JobMessage):
    """The provider accepted this attempt: it answered the create, or a poll found the response (`adopted`)."""

    topic: ClassVar[str] = "jobs"
    type: Literal["attempt_accepted"] = "attempt_accepted"
    attempt: Int64 = Field(ge=1)
    tenant: TenantId
    response_id: ResponseId
    status: str
    adopted: bool = False
    sent_at_ms: UnixMs | None = None
    poll_at_ms: UnixMs
    """When to poll for the first time; stamped by the writer's policy."""
    poll_basis: PollBasis | None = None
    latency_class: LatencyClass | None = None
    control: Literal[True] | None = None
    """Polled as if no webhook came, to measure how many are lost. Absent for all others."""
    provider_request_id: str | None = None
    stream: Literal[True] | None = None
    """The provider answered with a stream, so partial output can be followed. Absent otherwise."""
    limits: ToldLimits | None = None
    """Absent where no rule of the limits applies to the job, or the answer told nothing."""
    end: AttemptEnd | None = None
    """Set if the answer already held the end: the server ignores `background`, or was quick."""
    hedge_at_ms: UnixMs | None = None
    """When to ask whether the attempt may be hedged. Absent if it may not, or if too little is known."""


class AttemptRejected(JobMessage):
    """The provider certainly did not take this attempt, or the create was never sent."""

    topic: ClassVar[str] = "jobs"
    type: Literal["attempt_rejected"] = "attempt_rejected"
    attempt: Int64 = Field(ge=1)
    cause: Cause
    code: str
    message: str = ""
    http_status: Int64 | None = None
    wait_ms: SpanMs = 0
    """The least wait that the answer asked for; 0 where it asked for none."""
    held_for: Cause | None = None
    """Why the lane is closed. Absent where the cause is not `held`, or another limit held the create."""
    limits: ToldLimits | None = None
    """As in `AttemptAccepted`."""

    _older = model_validator(mode="before")(cause_of_older)


class AttemptUnknown(JobMessage):
    """The create was sent, and its outcome is unknown."""

    topic: ClassVar[str] = "jobs"
    type: Literal["attempt_unknown"] = "attempt_unknown"
    attempt: Int64 = Field(ge=1)
    reason: str
    """Backstop's own wording."""
    message: str = ""
    """The beginning of the provider's unusable answer."""
    answered: Literal[True] | None = None
    """The create was answered with a 5xx that does not prove a refusal. Absent otherwise."""
    taken: Literal[True] | None = None
    """The answer proves that the create was taken, and names no response. Absent otherwise."""


class AttemptSettled(JobMessage):
    """How an attempt's response ended, or that it is missing or stuck. The response fold writes one per end."""

    topic: ClassVar[str] = "jobs"
    type: Literal["attempt_settled"] = "attempt_settled"
    attempt: Int64 = Field(ge=1)
    response_id: ResponseId
    status: SettledStatus
    cause: Cause | None = None
    code: str | None = None
    message: str | None = None
    said_by: Literal["backstop"] | None = None
    """`backstop`: `message` is Backstop's own text. Absent: it is the provider's."""
    wait_ms: SpanMs = 0
    """The minimum wait that the failure asked for; 0 for none."""
    response: Body | None = None
    """The response object as retrieved."""
    usage: Usage | None = None
    terms: Terms | None = None
    continuation_id: str | None = None
    """The id by which a later create continues the completion window of this one."""
    found_by: FoundBy
    polls: Int64
    webhook_at_ms: UnixMs | None = None
    provider_created_at_ms: UnixMs | None = None
    provider_ended_at_ms: UnixMs | None = None

    _older = model_validator(mode="before")(cause_of_older)


class HedgePermitted(JobMessage):
    """The scheduler permitted a hedge of this attempt, and a later poll found its response still queued or running."""

    topic: ClassVar[str] = "jobs"
    type: Literal["hedge_permitted"] = "hedge_permitted"
    attempt: Int64 = Field(ge=1)
    response_id: ResponseId
    permit: HedgePermit


class UsageBooked(JobMessage):
    """Tokens that are in no result: of an attempt that ended after its job, or of a second response of one attempt.

    The id contains the response id. Of two facts with one id, the one that is not `estimated` counts, else the first.
    """

    topic: ClassVar[str] = "jobs"
    type: Literal["usage_booked"] = "usage_booked"
    tenant: TenantId
    attempt: Int64 = Field(ge=1)
    response_id: ResponseId
    usage: Usage
    terms: Terms | None = None
    estimated: Literal[True] | None = None
    """Estimated from the output seen, as the provider reported no usage. Absent if the provider reported it."""


class JobTimerFired(JobMessage):
    """The time `due_ms` has come. The fold decides what that means, and ignores a timer that it no longer expects."""

    topic: ClassVar[str] = "jobs"
    type: Literal["timer_fired"] = "timer_fired"
    due_ms: UnixMs


class JobAdmitted(JobMessage):
    """A waiting job has its turn: its first attempt begins."""

    topic: ClassVar[str] = "jobs"
    type: Literal["job_admitted"] = "job_admitted"
    reserved_tokens: Int64 = Field(ge=0)
    """Input and output tokens that it is expected to use."""
    waited_for: str = Field(max_length=40)
    """What its lane or tenant was short of last; `turn`: of nothing."""


class FallbackTaken(JobMessage):
    """The lane of a job that waits has been closed for longer than it waits for it: its next model's turn has come."""

    topic: ClassVar[str] = "jobs"
    type: Literal["fallback_taken"] = "fallback_taken"
    number: Int64 = Field(ge=1)
    """Which of the job's fallbacks, from 1."""
    closed_ms: SpanMs
    """How long the lane has been closed."""
    code: str = Field(max_length=200)
    """The code of the failure that closed it."""


class JobFoundTooLate(JobMessage):
    """A job that waits has less time left than nine of ten runs of its model take."""

    topic: ClassVar[str] = "jobs"
    type: Literal["job_found_too_late"] = "job_found_too_late"
    needs_ms: SpanMs


JobFact = Annotated[
    JobSubmitted | ResponseAdopted | AdoptionRefused | JobRefused | CancelRequested | JobChanged | AttemptAccepted
    | AttemptRejected | AttemptUnknown | AttemptSettled | HedgePermitted | UsageBooked | JobAdmitted
    | JobFoundTooLate | FallbackTaken | JobErased | JobTimerFired,
    Field(discriminator="type"),
]  # fmt: skip
JOB_FACT: TypeAdapter[JobFact] = TypeAdapter(JobFact)
