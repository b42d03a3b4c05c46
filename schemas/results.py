"""The one terminal record of a job, on `results`."""

from typing import ClassVar, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import SkipJsonSchema

from schemas.base import Body, FoundBy, Frozen, JobMessage, TenantId, Usage
from schemas.statuses import AttemptOutcome, JobOutcome


class Reason(Frozen):
    """Why a job did not complete: a code for programs and a sentence for people."""

    code: str
    message: str = ""
    http_status: int | None = None
    """Of the provider's answer, where a refusal is the reason."""
    said_by: Literal["provider"] | None = None
    """Whose words `message` holds: the provider's, as they came (bounded and cleaned). Absent where they are Backstop's own."""


class Timings(Frozen):
    """Milliseconds. Spans between our own clock readings, but for `running_ms`, which is the provider's own."""

    submitted_at_ms: int
    accepted_at_ms: int | None = None
    finished_at_ms: int
    queued_ms: int | None = None
    """From submission to the acceptance of the attempt that decided the job."""
    running_ms: int | None = None
    webhook_lag_ms: int | None = None
    """From the provider's end to the arrival of the webhook at our door (the provider's stamp is a whole second)."""
    detection_ms: int | None = None
    """From the provider's end to the observation that settled the attempt."""


class AttemptBrief(Frozen):
    attempt: int
    outcome: AttemptOutcome
    response_id: str | None = None
    adopted: bool = False
    code: str | None = None
    """Why it did not complete, where the provider said so."""
    usage: Usage | SkipJsonSchema[None] = None
    """Never null on the wire: it is left out."""


class JobResult(JobMessage):
    topic: ClassVar[str] = "results"
    type: Literal["job_result"] = "job_result"
    tenant: TenantId
    outcome: JobOutcome
    reason: Reason | None = None
    model: str | None = None
    response: Body | None = None
    """The provider's response object; inline up to the inline limit, else by reference into the blob store."""
    response_url: str | SkipJsonSchema[None] = None
    """Where the response object can be read with a key of the tenant; given where it is not inline and the operator names an address."""
    usage: Usage | None = None
    """The sum over all attempts whose usage was known when the job ended. What comes later is not in it."""
    found_by: FoundBy | None = None
    timings: Timings
    attempts: tuple[AttemptBrief, ...] = ()
    rejections: int = 0
    """Creates that the provider refused; they made no response."""
    session_id: str | None = None
    tags: tuple[str, ...] = ()


RESULT: TypeAdapter[JobResult] = TypeAdapter(JobResult)
