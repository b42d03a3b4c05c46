"""The spans of jobs, made from the batches that the job fold has folded. Pure.

One place makes them, where a worker has folded a batch and written its rows. A refold, a recovery and a redelivered
record do not pass there, so none exports a span again; and a span's id is derived, so a repeat is the same span.

Names and attributes: OpenTelemetry's semantic conventions of `SCHEMA_URL`, those of GenAI and messaging. No prompt, no
output and no text of the provider is in a span.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from schemas.base import Usage
from schemas.jobs import AttemptAccepted, AttemptSettled
from schemas.results import JobResult
from schemas.statuses import GIVEN_UP_STATUSES
from schemas.traces import (
    attempt_span_id,
    is_sampled,
    job_span_id,
    parent_id_of,
    publish_span_id,
    trace_id_of,
)
from streams.fold.attempts import Over, Running
from streams.fold.batch import Folded
from streams.fold.job_states import Active, BackingOff, Waiting

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.37.0"

Kind = Literal["internal", "client", "producer"]


@dataclass(frozen=True, slots=True)
class JobSpan:
    """A finished span. Times are Unix milliseconds; `error` is the error's type, None if there was none."""

    name: str
    kind: Kind
    trace_id: str
    span_id: str
    parent_id: str | None
    start_ms: int
    end_ms: int
    attributes: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _OfJob:
    """What the spans of a job share."""

    job_id: str
    tenant: str
    model: str
    submitted_at_ms: int
    traceparent: str | None

    @property
    def trace_id(self) -> str:
        return trace_id_of(self.traceparent, self.job_id)

    @property
    def span_id(self) -> str:
        return job_span_id(self.job_id, self.submitted_at_ms)


def spans_of(folded: Folded[Any], results_topic: str) -> list[JobSpan]:
    """The spans of attempts and jobs that ended in this batch."""
    results = {output.job_id: output for output in folded.outputs if isinstance(output, JobResult)}
    # By span: a response that was given up and ended in one batch has the span of its end.
    attempts: dict[str, JobSpan] = {}
    for key, fact in folded.facts:
        job = _job_of(results.get(key.decode()), folded.states.get(key), key.decode())
        if job is not None and is_sampled(job.traceparent):
            found = _of_attempt(job, fact, folded.states.get(key), results.get(job.job_id))
            attempts |= {each.span_id: each for each in found}
    spans = list(attempts.values())
    for result in results.values():
        if is_sampled(result.traceparent):
            spans += _of_result(result, results_topic)
    return spans


def _job_of(result: JobResult | None, state: Any, job_id: str) -> _OfJob | None:
    if result is not None:
        submitted_at_ms = result.timings.submitted_at_ms
        return _OfJob(job_id, result.tenant, result.model or "", submitted_at_ms, result.traceparent)
    if isinstance(state, Waiting | Active | BackingOff):
        spec = state.spec
        return _OfJob(job_id, spec.tenant, spec.model, spec.submitted_at_ms, spec.traceparent)
    return None


def _of_attempt(job: _OfJob, fact: Any, state: Any, result: JobResult | None) -> Iterator[JobSpan]:
    """The span of the attempt that `fact` ended, if it ended one.

    A response that was given up may still end. It has its span then, or now if that ended the job.
    """
    if isinstance(fact, AttemptSettled | AttemptAccepted) and fact.response_id != _response_of(fact, state, result):
        return  # A second response of the attempt.
    if isinstance(fact, AttemptSettled):
        if fact.status in GIVEN_UP_STATUSES and result is None:
            return
        start_ms = _accepted_at_ms(fact, state, result)
        seen = {"backstop.found_by": fact.found_by, "backstop.polls": fact.polls}
        yield _attempt(job, fact, (start_ms, fact.at_ms), fact.status, fact.code, fact.usage, seen)
    elif isinstance(fact, AttemptAccepted) and fact.end is not None:
        times = (fact.sent_at_ms or fact.at_ms, fact.at_ms)
        seen = {"backstop.found_by": "create"}
        yield _attempt(job, fact, times, fact.end.status, fact.end.code, fact.end.usage, seen)


def _response_of(fact: AttemptSettled | AttemptAccepted, state: Any, result: JobResult | None) -> str | None:
    """The response of the attempt."""
    if result is not None:
        return next((each.response_id for each in result.attempts if each.attempt == fact.attempt), None)
    known = state.attempts.get(fact.attempt) if isinstance(state, Active | BackingOff) else None
    return known.response_id if isinstance(known, Running | Over) else None


def _accepted_at_ms(fact: AttemptSettled, state: Any, result: JobResult | None) -> int:
    if isinstance(state, Active | BackingOff):
        known = state.attempts.of_response(fact.response_id)
        if known is not None:
            return known.accepted_at_ms
    told = result.timings.accepted_at_ms if result is not None else fact.provider_created_at_ms
    return min(told or fact.at_ms, fact.at_ms)


def _attempt(
    job: _OfJob, fact: AttemptSettled | AttemptAccepted, times: tuple[int, int], status: str, code: str | None,
    usage: Usage | None, seen: dict[str, Any],
) -> JobSpan:  # fmt: skip
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": job.model,
        "gen_ai.response.id": fact.response_id, "gen_ai.response.finish_reasons": (status,),
        "backstop.job.id": job.job_id, "backstop.attempt": fact.attempt, **seen,
    }  # fmt: skip
    if usage is not None:
        attributes |= {
            "gen_ai.usage.input_tokens": usage.input_tokens, "gen_ai.usage.output_tokens": usage.output_tokens,
        }  # fmt: skip
    span_id = attempt_span_id(job.job_id, job.submitted_at_ms, fact.attempt)
    error = None if status in ("completed", "incomplete") else code or status
    return JobSpan(f"chat {job.model}", "client", job.trace_id, span_id, job.span_id, *times, attributes, error)


def _of_result(result: JobResult, topic: str) -> Iterator[JobSpan]:
    timings, reason = result.timings, result.reason
    job = _OfJob(result.job_id, result.tenant, result.model or "", timings.submitted_at_ms, result.traceparent)
    failed = result.outcome not in ("completed", "incomplete", "cancelled")
    yield JobSpan(
        "job", "internal", job.trace_id, job.span_id, parent_id_of(result.traceparent),
        timings.submitted_at_ms, timings.finished_at_ms,
        {
            "backstop.job.id": job.job_id, "backstop.tenant": job.tenant, "backstop.outcome": result.outcome,
            "backstop.attempts": len(result.attempts), "backstop.rejections": result.rejections,
            "gen_ai.request.model": job.model,
        },
        (reason.code if reason is not None else result.outcome) if failed else None,
    )  # fmt: skip
    yield JobSpan(
        f"send {topic}", "producer", job.trace_id, publish_span_id(job.job_id, timings.submitted_at_ms), job.span_id,
        timings.finished_at_ms, timings.finished_at_ms,
        {
            "messaging.system": "kafka", "messaging.operation.name": "send", "messaging.operation.type": "send",
            "messaging.destination.name": topic, "messaging.kafka.message.key": job.job_id,
        },
    )  # fmt: skip
