"""How the next attempt of a job begins. Pure."""

from schemas.base import Body
from schemas.commands import CreateResponse
from schemas.jobs import JobFact
from schemas.traces import attempt_span_id, below
from streams.fold.attempts import Attempts, Submitting
from streams.fold.job_fallbacks import asked_of_attempt
from streams.fold.job_states import Active, JobState, Spec
from streams.fold.step import Step


def begin_attempt(spec: Spec, request: Body, attempts: Attempts, event: JobFact) -> Step[JobState]:
    """Begin the next attempt. The command is derived from the event, so a repeated event gives the same command.

    A hedge continues no completion window: the attempt beside it may.
    """
    number = attempts.last_number + 1
    submitting = Submitting(number, event.at_ms, event.at_ms + spec.policy.report_timeout_ms)
    too_long = number > 1 and spec.window_ms is not None and event.at_ms + spec.window_ms > spec.deadline_at_ms
    command = CreateResponse(
        id=f"{event.job_id}/{number}/create",
        at_ms=event.at_ms,
        job_id=event.job_id,
        attempt=number,
        tenant=spec.tenant,
        model=spec.model,
        tags=spec.tags if spec.policy.tags_sent else None,
        request=request,
        not_after_ms=min(event.at_ms + spec.policy.command_valid_ms, spec.deadline_at_ms),
        timeout_ms=spec.policy.create_timeout_ms,
        soonest=True if too_long else None,
        continuation_id=None if too_long or attempts.live() else attempts.continuation_id,
        instead=asked_of_attempt(spec.fell, number),
        hedge=True if spec.policy.hedge and attempts.hedge is None else None,
        traceparent=below(spec.traceparent, attempt_span_id(event.job_id, spec.submitted_at_ms, number)),
    )
    return Step(Active(spec, attempts.begin(submitting)), (command,))
