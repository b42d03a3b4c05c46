"""Makes the terminal record of a job from the fact that ended it. Pure."""

from collections.abc import Iterable

from schemas.base import DEFAULT_TENANT, BlobBody
from schemas.fallbacks import FallbackBrief
from schemas.jobs import AttemptRejected, AttemptSettled, JobFact
from schemas.results import AttemptBrief, JobResult, Reason, Timings
from schemas.statuses import JobOutcome
from streams.fold.attempts import Attempts
from streams.fold.job_fallbacks import asked_of_attempt
from streams.fold.job_hedges import hedge_brief


def reason_of_end(event: AttemptSettled) -> Reason:
    theirs = event.message and event.said_by is None
    return Reason(code=event.code or event.status, message=event.message or "", said_by="provider" if theirs else None)


def reason_of_refusal(event: AttemptRejected) -> Reason:
    theirs = event.http_status is not None and event.message
    return Reason(
        code=event.code,
        message=event.message,
        http_status=event.http_status,
        said_by="provider" if theirs else None,
    )


def reason_of_unknown(answers: Iterable[str]) -> Reason:
    said = "; ".join(answers)
    message = "the create was sent, and its outcome stayed unknown"
    return Reason(code="unknown_outcome", message=f"{message}; it was answered: {said}" if said else message)


def make_result(
    event: JobFact,
    attempts: Attempts,
    outcome: JobOutcome,
    reason: Reason | None,
    *,
    tenant: str,
    settled: AttemptSettled | None = None,
    model: str | None = None,
    submitted_at_ms: int | None = None,
    session_id: str | None = None,
    tags: tuple[str, ...] = (),
    public_url: str | None = None,
    retry_of: str | None = None,
    fell: tuple[FallbackBrief, ...] = (),
    traceparent: str | None = None,
) -> JobResult:
    """The result of a job. Output, `found_by` and the provider's times come from `settled`, the end of the attempt that
    ended the job; they are empty without one.
    """
    return JobResult(
        id=f"{event.job_id}/result",
        at_ms=event.at_ms,
        job_id=event.job_id,
        tenant=tenant,
        outcome=outcome,
        reason=reason,
        model=model,
        response=settled.response if settled else None,
        response_url=_output_url(event.job_id, tenant, settled, public_url),
        usage=attempts.usage(),
        found_by=settled.found_by if settled else None,
        timings=_timings(event, settled, attempts, event.at_ms if submitted_at_ms is None else submitted_at_ms),
        attempts=tuple(_of_fallback(brief, fell) for brief in attempts.briefs()),
        rejections=attempts.rejections,
        session_id=session_id,
        tags=tags,
        hedge=hedge_brief(attempts, settled),
        retry_of=retry_of,
        fallbacks=fell or None,
        traceparent=traceparent,
    )


def _of_fallback(brief: AttemptBrief, fell: tuple[FallbackBrief, ...]) -> AttemptBrief:
    asked = asked_of_attempt(fell, brief.attempt)
    return brief if asked is None else brief.model_copy(update={"model": asked.model})


def _output_url(job_id: str, tenant: str, settled: AttemptSettled | None, public_url: str | None) -> str | None:
    if public_url is None or settled is None or not isinstance(settled.response, BlobBody):
        return None
    given = job_id if tenant == DEFAULT_TENANT else job_id.removeprefix(f"{tenant}:")
    return f"{public_url.rstrip('/')}/v1/jobs/{given}/output"


def _timings(event: JobFact, settled: AttemptSettled | None, attempts: Attempts, submitted_at_ms: int) -> Timings:
    if settled is None:
        return Timings(submitted_at_ms=submitted_at_ms, finished_at_ms=event.at_ms)
    decider = attempts.of_response(settled.response_id)
    accepted_at_ms = decider.accepted_at_ms if decider else None
    created_at_ms, ended_at_ms = settled.provider_created_at_ms, settled.provider_ended_at_ms
    return Timings(
        submitted_at_ms=submitted_at_ms,
        accepted_at_ms=accepted_at_ms,
        finished_at_ms=event.at_ms,
        queued_ms=_span(submitted_at_ms, accepted_at_ms),
        running_ms=_span(created_at_ms, ended_at_ms),
        webhook_lag_ms=_span(ended_at_ms, settled.webhook_at_ms),
        detection_ms=_span(ended_at_ms, event.at_ms),
    )


def _span(start_ms: int | None, end_ms: int | None) -> int | None:
    """At least 0, although the two stamps may be of different clocks and the provider's are whole seconds."""
    if start_ms is None or end_ms is None:
        return None
    return max(0, end_ms - start_ms)
