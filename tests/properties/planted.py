"""Folds with one plausible bug each. The machine must refuse every one: that proves its invariants."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from schemas.jobs import AttemptAccepted, AttemptSettled, HedgePermitted, JobSubmitted, JobTimerFired
from schemas.responses import ResponseClaimed, ResponseObserved, ResponseTimerFired, WebhookReceived
from streams.fold import job, response
from streams.fold.attempt_begins import begin_attempt
from streams.fold.attempts import Attempts, Running
from streams.fold.step import Ignored, Step
from tests.properties.model import JobStep, ResponseStep
from tests.support.builders import POLICY, REQUEST


@dataclass(frozen=True)
class Planted:
    bug: str
    says: str
    """A regular expression: what the failed invariant says."""
    job_step: JobStep = job.step
    response_step: ResponseStep = response.step


def _submits_again(state: Any, event: Any) -> Step[Any]:
    """Dedupe off: a repeated submission begins the job anew."""
    return job.step(job.Absent() if isinstance(event, JobSubmitted) else state, event)


def _claims_again(state: Any, event: Any) -> Step[Any]:
    """Dedupe off: a repeated claim begins the response anew."""
    known = isinstance(state, response.RunningResponse | response.Ended)
    return response.step(response.AbsentResponse() if known and isinstance(event, ResponseClaimed) else state, event)


def _webhooks_again(state: Any, event: Any) -> Step[Any]:
    """Dedupe off: a repeated webhook is forgotten, and says that it was not ignored."""
    done = response.step(state, event)
    return replace(done, ignored=None) if isinstance(event, WebhookReceived) else done


def _result_at_every_completed(state: Any, event: Any) -> Step[Any]:
    if not isinstance(event, AttemptSettled) or not isinstance(state, job.Finished):
        return job.step(state, event)
    spec = job.Spec(state.tenant, "m", REQUEST, "", 0, 0, POLICY, None, ())
    running = Running(event.attempt, event.response_id, 0, False)
    return job.step(job.Active(spec, Attempts((running,), last_number=1)), event)


def _settles_again(state: Any, event: Any) -> Step[Any]:
    """Each poll of an ended response settles it once more."""
    if isinstance(state, response.Ended) and isinstance(event, ResponseObserved) and event.outcome == "completed":
        return response.step(response.RunningResponse(state.claim, 0), event)
    return response.step(state, event)


def _any_timer(state: Any, event: Any) -> Step[Any]:
    """No stale check: whichever timer comes is taken for the one that is due."""
    due_ms = job.due_ms(state)
    if isinstance(event, JobTimerFired) and due_ms is not None:
        event = event.model_copy(update={"due_ms": due_ms})
    return job.step(state, event)


def _any_poll(state: Any, event: Any) -> Step[Any]:
    due_ms = response.due_ms(state)
    if isinstance(event, ResponseTimerFired) and due_ms is not None:
        event = event.model_copy(update={"due_ms": due_ms})
    return response.step(state, event)


def _retry_without_count(state: Any, event: Any) -> Step[Any]:
    done = job.step(state, event)
    if isinstance(done.state, job.BackingOff):
        return replace(done, state=replace(done.state, attempts=replace(done.state.attempts, retries=0)))
    return done


def _second_attempt_at_once(state: Any, event: Any) -> Step[Any]:
    """An unknown outcome is repeated under the same number: two commands for one attempt."""
    done = job.step(state, event)
    if (
        isinstance(event, JobTimerFired)
        and isinstance(done.state, job.Active)
        and done.state != state
        and not done.outputs
    ):
        again = job.step(job.Absent(), _submission(done.state.spec, event)).outputs
        return replace(done, outputs=again, ignored=None)
    return done


def _any_tenant(state: Any, event: Any) -> Step[Any]:
    """Adoption ignores the tenant."""
    if isinstance(event, AttemptAccepted) and isinstance(state, job.Active | job.BackingOff):
        event = event.model_copy(update={"tenant": state.spec.tenant})
    return job.step(state, event)


def _believes_webhooks(state: Any, event: Any) -> Step[Any]:
    """A webhook is taken for the proof."""
    if isinstance(state, response.RunningResponse) and isinstance(event, WebhookReceived):
        seen = ResponseObserved(
            id=event.id, at_ms=event.at_ms, response_id=event.response_id, command_id="", outcome="completed",
            response=REQUEST, next_poll_at_ms=event.at_ms,
        )  # fmt: skip
        return response.step(state, seen)
    return response.step(state, event)


def _no_deadline(state: Any, event: Any) -> Step[Any]:
    """The timer of the deadline does nothing."""
    is_open = isinstance(state, job.Active | job.BackingOff)
    if is_open and isinstance(event, JobTimerFired) and event.due_ms >= state.spec.deadline_at_ms:
        return Step(state, ignored=Ignored.STALE)
    return job.step(state, event)


def _raises(state: Any, event: Any) -> Step[Any]:
    """Raises where it should say that it ignores."""
    done = job.step(state, event)
    if done.ignored is Ignored.IMPOSSIBLE:
        raise ValueError("impossible")
    return done


def _reads_a_clock(clock: Iterator[int]) -> JobStep:
    """`clock` stands for one: two readings differ."""

    def step(state: Any, event: Any) -> Step[Any]:
        done = job.step(state, event)
        if isinstance(done.state, job.BackingOff) and done.ignored is None:
            return replace(done, state=replace(done.state, retry_at_ms=done.state.retry_at_ms + next(clock)))
        return done

    return step


def _submission(spec: job.Spec, event: JobTimerFired) -> JobSubmitted:
    return JobSubmitted(
        id=event.id, at_ms=event.at_ms, job_id=event.job_id, tenant=spec.tenant, ingress="http", model=spec.model,
        request=spec.request, request_sha256=spec.request_sha256, deadline_at_ms=spec.deadline_at_ms,
        policy=spec.policy,
    )  # fmt: skip


def _hedges_again(state: Any, event: Any) -> Step[Any]:
    """Each permission begins a hedge."""
    if isinstance(event, HedgePermitted) and isinstance(state, job.Active) and state.spec.request is not None:
        return begin_attempt(state.spec, state.spec.request, state.attempts, event)
    return job.step(state, event)


def _hedges_at_any_sight(state: Any, event: Any) -> Step[Any]:
    """The permission goes to the job without a poll that shows that the response runs."""
    done = response.step(state, event)
    if isinstance(event, ResponseTimerFired) and event.permit is not None and done.ignored is None:
        seen = ResponseObserved(
            id=event.id, at_ms=event.at_ms, response_id=event.response_id, command_id="", outcome="running",
            raw_status="queued", next_poll_at_ms=event.next_poll_at_ms,
        )  # fmt: skip
        again = response.step(done.state, seen)
        return replace(again, outputs=(*done.outputs, *again.outputs))
    return done


def planted() -> tuple[Planted, ...]:
    return (
        Planted("dedupe of submissions off", "I2|I3|I5|a repeat", job_step=_submits_again),
        Planted("dedupe of claims off", "settled twice|a repeat", response_step=_claims_again),
        Planted("a duplicate is not said to be ignored", "nothing happened", response_step=_webhooks_again),
        Planted("a result at every completed attempt", "I2|a repeat", job_step=_result_at_every_completed),
        Planted("an ended response settles again", "settled twice|a repeat", response_step=_settles_again),
        Planted("job timer without a stale check", "before its time|a repeat", job_step=_any_timer),
        Planted("poll timer without a stale check", "before its time|a repeat", response_step=_any_poll),
        Planted("retry without a count", "I3|I5", job_step=_retry_without_count),
        Planted("two commands for one attempt", "I3", job_step=_second_attempt_at_once),
        Planted("adoption ignores the tenant", "I9", job_step=_any_tenant),
        Planted("a webhook is the proof", "not what happened", response_step=_believes_webhooks),
        Planted("no deadline", "I5", job_step=_no_deadline),
        Planted("an impossible fact raises", "impossible", job_step=_raises),
        Planted("a hedge for each permission", "I3|a repeat", job_step=_hedges_again),
        Planted("a hedge without a poll", "I3: a hedge without", response_step=_hedges_at_any_sight),
        Planted("a fold that reads a clock", "the same state and fact", job_step=_reads_a_clock(count())),
    )
