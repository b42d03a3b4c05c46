"""A fact's summary on a timeline: a few fields by name. Pure.

Only fields named here are included, so no prompt, output or provider's text ever is; an error's message is left out
because it may quote the prompt.
"""

from typing import Any, assert_never

from schemas.base import PollBasis
from schemas.codec import canonical
from schemas.erasures import JobErased
from schemas.jobs import (
    AdoptionRefused,
    AttemptAccepted,
    AttemptRejected,
    AttemptSettled,
    AttemptUnknown,
    CancelRequested,
    FallbackTaken,
    HedgePermitted,
    JobAdmitted,
    JobChanged,
    JobFact,
    JobFoundTooLate,
    JobRefused,
    JobSubmitted,
    JobTimerFired,
    ResponseAdopted,
    UsageBooked,
)
from schemas.responses import (
    PollFailed,
    ResponseClaimed,
    ResponseDeadlineMoved,
    ResponseFact,
    ResponseObserved,
    ResponseReleased,
    ResponseTimerFired,
    WebhookReceived,
)
from schemas.results import JobResult
from streams.fold.step import Ignored


def summarise(fact: JobFact | ResponseFact | JobResult, ignored: Ignored | None = None) -> bytes:
    """Canonical JSON; fields without a value are left out. `ignored` says why the job's fold ignored the fact."""
    fields = _result(fact) if isinstance(fact, JobResult) else _fields(fact)
    if ignored is not None:
        fields["ignored"] = str(ignored)
    return canonical({name: value for name, value in fields.items() if value is not None})


def _fields(fact: JobFact | ResponseFact) -> dict[str, Any]:
    match fact:
        case (
            WebhookReceived()
            | ResponseClaimed()
            | ResponseReleased()
            | ResponseDeadlineMoved()
            | ResponseObserved()
            | PollFailed()
            | ResponseTimerFired()
        ):
            return {"response_id": fact.response_id} | _of_response(fact)
        case _:
            return _of_job(fact)


def _of_job(fact: JobFact) -> dict[str, Any]:
    match fact:
        case JobSubmitted():
            return {
                "ingress": fact.ingress,
                "asked_by": fact.asked_by,
                "model": fact.model,
                "deadline_at_ms": fact.deadline_at_ms,
                **({} if fact.retry is None else fact.retry.model_dump(exclude_none=True, exclude={"job_id"})),
                "retry_of": None if fact.retry is None else fact.retry.job_id,
            }
        case CancelRequested() | JobChanged() | JobErased():
            named = {"ingress", "asked_by", "priority", "deadline_at_ms", "erasure_id", "why", "by"}
            return fact.model_dump(include=named)
        case ResponseAdopted() | AdoptionRefused() | UsageBooked() | HedgePermitted():
            return _beside(fact)
        case JobRefused():
            return {"code": fact.code}
        case JobTimerFired() | JobAdmitted() | JobFoundTooLate() | FallbackTaken():
            return _of_turn(fact)
        case _:
            return {"attempt": fact.attempt} | _of_attempt(fact)


def _of_turn(fact: JobTimerFired | JobAdmitted | JobFoundTooLate | FallbackTaken) -> dict[str, Any]:
    match fact:
        case JobTimerFired():
            return {"due_ms": fact.due_ms}
        case JobAdmitted():
            return {"reserved_tokens": fact.reserved_tokens, "waited_for": fact.waited_for}
        case JobFoundTooLate():
            return {"needs_ms": fact.needs_ms}
        case FallbackTaken():
            return fact.model_dump(include={"number", "closed_ms", "code"})


def _beside(fact: ResponseAdopted | AdoptionRefused | UsageBooked | HedgePermitted) -> dict[str, Any]:
    if isinstance(fact, HedgePermitted):
        permit = fact.permit
        return {
            "attempt": fact.attempt,
            "response_id": fact.response_id,
            "age_ms": permit.age_ms,
            "after_ms": permit.after_ms,
            "ended": permit.ended,
        }
    if isinstance(fact, AdoptionRefused):
        return {"response_id": fact.response_id}
    if isinstance(fact, UsageBooked):
        return {
            "attempt": fact.attempt,
            "response_id": fact.response_id,
            "input_tokens": fact.usage.input_tokens,
            "output_tokens": fact.usage.output_tokens,
            "estimated": fact.estimated,
        }
    return {
        "ingress": fact.ingress,
        "asked_by": fact.asked_by,
        "response_id": fact.response_id,
        "deadline_at_ms": fact.deadline_at_ms,
    }


def _of_attempt(fact: AttemptAccepted | AttemptRejected | AttemptUnknown | AttemptSettled) -> dict[str, Any]:
    match fact:
        case AttemptAccepted():
            return {
                "response_id": fact.response_id,
                "status": fact.status,
                "adopted": fact.adopted or None,
                "poll_at_ms": fact.poll_at_ms,
                **_why(fact.poll_basis),
            }
        case AttemptRejected():
            return {
                "cause": fact.cause,
                "code": fact.code,
                "http_status": fact.http_status,
                "wait_ms": fact.wait_ms,
            }
        case AttemptUnknown():
            return {"reason": fact.reason}
        case AttemptSettled():
            return {
                "response_id": fact.response_id,
                "status": fact.status,
                "code": fact.code,
                "found_by": fact.found_by,
                "polls": fact.polls,
            }
        case _:
            assert_never(fact)


def _of_response(fact: ResponseFact) -> dict[str, Any]:
    match fact:
        case WebhookReceived():
            return {
                "webhook_id": fact.webhook_id,
                "event_type": fact.event_type,
                "sent_at_ms": fact.sent_at_ms,
                "key_id": fact.key_id,
            }
        case ResponseClaimed():
            return {
                "attempt": fact.attempt,
                "poll_at_ms": fact.poll_at_ms,
                "released": fact.released,
                "made_elsewhere": fact.made_elsewhere,
            }
        case ResponseReleased() | ResponseDeadlineMoved():
            return fact.model_dump(include={"last_poll_at_ms"})
        case ResponseObserved():
            return {
                "outcome": fact.outcome,
                "status": fact.raw_status,
                "code": fact.code,
                "next_poll_at_ms": fact.next_poll_at_ms,
                **_why(fact.poll_basis),
            }
        case PollFailed():
            return {"reason": fact.reason, "next_poll_at_ms": fact.next_poll_at_ms} | _why(fact.poll_basis)
        case ResponseTimerFired():
            return {"due_ms": fact.due_ms, "next_poll_at_ms": fact.next_poll_at_ms} | _why(fact.poll_basis)
        case _:
            assert_never(fact)


def _result(result: JobResult) -> dict[str, Any]:
    return {
        "outcome": result.outcome,
        "code": result.reason.code if result.reason else None,
        "found_by": result.found_by,
        "attempts": len(result.attempts),
    }


def _why(basis: PollBasis | None) -> dict[str, str]:
    """What the time of a poll was decided from, in words; empty where the fixed schedule decided."""
    if basis is None:
        return {}
    of = " ".join(basis.latency_class) or "all models"
    return {
        "poll_basis": f"{of}: {basis.ends} ends, {100 * basis.loss:.2g} % of webhooks lost, "
        f"a poll is worth {basis.price_s:g} s"
    }
