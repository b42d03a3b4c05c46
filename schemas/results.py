"""The terminal record of a job, one per job, on `results`."""

from typing import ClassVar, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import SkipJsonSchema

from schemas.base import Body, FoundBy, Frozen, Int64, JobMessage, TenantId, Usage
from schemas.fallbacks import FallbackBrief
from schemas.statuses import AttemptOutcome, JobOutcome
from schemas.traces import Traceparent, below, job_span_id


class Reason(Frozen):
    """Why a job did not complete: a code for programs and a sentence for users."""

    code: str
    message: str = ""
    http_status: Int64 | None = None
    """HTTP status of the provider's answer, if a refusal is the reason."""
    said_by: Literal["provider"] | None = None
    """`provider`: `message` is the provider's text, shortened and cleaned. After it, in parentheses, Backstop may say
    why the job was not tried again. Absent if the text is Backstop's own."""


class Timings(Frozen):
    """Milliseconds. Instants are by Backstop's clock. `running_ms` is by the provider's clock; `webhook_lag_ms` and
    `detection_ms` compare both clocks. Spans are never negative.
    """

    submitted_at_ms: Int64
    accepted_at_ms: Int64 | None = None
    finished_at_ms: Int64
    queued_ms: Int64 | None = None
    """From submission to the acceptance of the attempt that decided the job."""
    running_ms: Int64 | None = None
    webhook_lag_ms: Int64 | None = None
    """From the end at the provider to the arrival of the webhook (the provider's stamp is a whole second)."""
    detection_ms: Int64 | None = None
    """From the end at the provider to the fact that ended the job."""


class AttemptBrief(Frozen):
    attempt: Int64
    outcome: AttemptOutcome
    response_id: str | None = None
    adopted: bool = False
    code: str | None = None
    """Why the attempt did not complete, if the provider said so."""
    usage: Usage | SkipJsonSchema[None] = None
    """Never null on the wire: left out instead."""
    model: str | SkipJsonSchema[None] = None
    """The model of a fallback that the attempt asked for. Left out for that of the request."""


class HedgeBrief(Frozen):
    """The job had a hedge: a second attempt beside a slow one."""

    attempt: Int64
    """The number of the hedge. Its tokens, as far as known, are in `attempts`."""
    beside: Int64
    """The number of the attempt that was slow."""
    begun_after_ms: Int64
    """The age of the slow attempt's response when the hedge began."""
    won: Literal["first", "hedge"] | SkipJsonSchema[None] = None
    """The attempt that completed first, in the order of the log. Left out if neither decided the job."""
    ahead_ms: Int64 | SkipJsonSchema[None] = None
    """By how much the winner was ahead: its run time is at least this much shorter than the other's. Left out if the
    other attempt ended before, was never accepted, or had not run as long yet."""


class JobResult(JobMessage):
    topic: ClassVar[str] = "results"
    type: Literal["job_result"] = "job_result"
    tenant: TenantId
    outcome: JobOutcome
    reason: Reason | None = None
    model: str | None = None
    response: Body | None = None
    """The provider's response object: inline up to the inline limit, otherwise a reference into the blob store."""
    response_url: str | SkipJsonSchema[None] = None
    """Where the response object can be read with a key of the tenant. Set if the object is not inline and the operator
    configured a public address."""
    usage: Usage | None = None
    """The sum over all attempts whose usage was known when the job ended. Later usage is not included."""
    found_by: FoundBy | None = None
    timings: Timings
    attempts: tuple[AttemptBrief, ...] = ()
    rejections: Int64 = 0
    """Creates that the provider refused. They made no response."""
    hedge: HedgeBrief | SkipJsonSchema[None] = None
    """Left out if the job had no hedge."""
    session_id: str | None = None
    tags: tuple[str, ...] = ()
    fallbacks: tuple[FallbackBrief, ...] | SkipJsonSchema[None] = None
    """The fallbacks that the job took, in order; `model` is that of the attempt that decided the job. Left out if there
    were none."""
    retry_of: str | SkipJsonSchema[None] = None
    """The ended job whose request this job repeated. Never null on the wire: left out instead."""
    traceparent: Traceparent | SkipJsonSchema[None] = None
    """W3C Trace Context as the submission had it. Left out if it had none. The record's own header `traceparent` names
    the job's span in that trace."""
    erased_at_ms: Int64 | SkipJsonSchema[None] = None
    """When the job was erased: response, texts, tags and session are gone. Never on `results`, where an erased job has
    a tombstone."""


RESULT: TypeAdapter[JobResult] = TypeAdapter(JobResult)


def result_traceparent(result: JobResult) -> str | None:
    """The `traceparent` of the job's span, for those who use the result; None if the submission had none."""
    return below(result.traceparent, job_span_id(result.job_id, result.timings.submitted_at_ms))
