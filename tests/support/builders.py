"""Facts with defaults, so that a test names only what it is about. Ids are short and derived from what the fact is."""

from typing import Any

from schemas.base import InlineBody
from schemas.erasures import JobErased
from schemas.hedges import HedgePermit
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
    JobFoundTooLate,
    JobPolicy,
    JobRefused,
    JobSubmitted,
    JobTimerFired,
    ResponseAdopted,
)
from schemas.responses import (
    PollFailed,
    ResponseClaimed,
    ResponseDeadlineMoved,
    ResponseObserved,
    ResponseReleased,
    ResponseTimerFired,
    WebhookReceived,
)
from schemas.results import JobResult, Timings
from schemas.statuses import ObservedOutcome as Outcome
from schemas.statuses import SettledStatus

JOB = "job_1"
RESP = "resp_1"
TENANT = "acme"
MODEL = "model-1"
T0 = 1_000_000
"""When the job of a test is submitted, in Unix milliseconds."""

DEADLINE = T0 + 3_600_000
FORGET_AFTER = 7_200_000

POLICY = JobPolicy(
    retries_max=2,
    rejections_max=3,
    backoff_base_ms=1_000,
    backoff_max_ms=60_000,
    command_valid_ms=30_000,
    report_timeout_ms=60_000,
    adoption_grace_ms=120_000,
    missing_grace_ms=40_000,
    forget_after_ms=FORGET_AFTER,
)
REQUEST = InlineBody(value={"model": MODEL, "input": "hello"})


def submitted(at_ms: int = T0, **changes: Any) -> JobSubmitted:
    given: dict[str, Any] = {
        "id": f"{changes.get('job_id', JOB)}/submitted",
        "at_ms": at_ms,
        "job_id": JOB,
        "tenant": TENANT,
        "ingress": "http",
        "model": MODEL,
        "request": REQUEST,
        "request_sha256": "sha-1",
        "deadline_at_ms": DEADLINE,
        "policy": POLICY,
    }
    return JobSubmitted(**{**given, **changes})


def adopted(at_ms: int = T0, response_id: str = RESP, **changes: Any) -> ResponseAdopted:
    given: dict[str, Any] = {
        "id": f"{changes.get('job_id', JOB)}/adopted",
        "at_ms": at_ms,
        "job_id": JOB,
        "tenant": TENANT,
        "ingress": "http",
        "response_id": response_id,
        "request_sha256": "sha-1",
        "deadline_at_ms": DEADLINE,
        "poll_at_ms": at_ms + 20_000,
        "policy": POLICY,
    }
    return ResponseAdopted(**{**given, **changes})


def adoption_refused(at_ms: int, response_id: str = RESP, **changes: Any) -> AdoptionRefused:
    given: dict[str, Any] = {
        "id": f"{response_id}/refused/{changes.get('job_id', JOB)}",
        "at_ms": at_ms,
        "job_id": JOB,
        "response_id": response_id,
        "message": "It can't be adopted: it belongs to a job.",
    }
    return AdoptionRefused(**{**given, **changes})


def refused(at_ms: int = T0, **changes: Any) -> JobRefused:
    given: dict[str, Any] = {
        "id": f"{changes.get('job_id', JOB)}/refused",
        "at_ms": at_ms,
        "job_id": JOB,
        "tenant": TENANT,
        "code": "invalid_request",
        "message": "request.model is missing",
        "forget_after_ms": FORGET_AFTER,
    }
    return JobRefused(**{**given, **changes})


def cancel_requested(at_ms: int, **changes: Any) -> CancelRequested:
    given: dict[str, Any] = {
        "id": f"{changes.get('job_id', JOB)}/cancel/{at_ms}",
        "at_ms": at_ms,
        "job_id": JOB,
        "tenant": TENANT,
        "ingress": "http",
    }
    return CancelRequested(**{**given, **changes})


def job_erased(at_ms: int) -> JobErased:
    left = JobResult(
        id=f"{JOB}/result", at_ms=at_ms, job_id=JOB, tenant=TENANT, outcome="completed", erased_at_ms=at_ms,
        timings=Timings(submitted_at_ms=T0, finished_at_ms=at_ms),
    )  # fmt: skip
    return JobErased(
        id=f"{JOB}/erased", at_ms=at_ms, job_id=JOB, tenant=TENANT, erasure_id="erasure_1", by="Ann", why="asked for",
        result=left,
    )  # fmt: skip


def job_changed(at_ms: int, **changes: Any) -> JobChanged:
    """Names neither priority nor deadline, where `changes` names none."""
    given: dict[str, Any] = {
        "id": f"{changes.get('job_id', JOB)}/changed/{at_ms}",
        "at_ms": at_ms,
        "job_id": JOB,
        "tenant": TENANT,
        "ingress": "http",
        "why": "night run",
    }
    return JobChanged(**{**given, **changes})


def accepted(at_ms: int, attempt: int = 1, response_id: str = RESP, **changes: Any) -> AttemptAccepted:
    given: dict[str, Any] = {
        "id": f"{changes.get('job_id', JOB)}/{attempt}/accepted/{response_id}",
        "at_ms": at_ms,
        "job_id": JOB,
        "attempt": attempt,
        "tenant": TENANT,
        "response_id": response_id,
        "status": "queued",
        "poll_at_ms": at_ms + 20_000,
    }
    return AttemptAccepted(**{**given, **changes})


def rejected(at_ms: int, attempt: int = 1, **changes: Any) -> AttemptRejected:
    given: dict[str, Any] = {
        "id": f"{changes.get('job_id', JOB)}/{attempt}/rejected",
        "at_ms": at_ms,
        "job_id": JOB,
        "attempt": attempt,
        "cause": "limited",
        "code": "rate_limit_exceeded",
        "message": "tokens per minute",
        "http_status": 429,
    }
    return AttemptRejected(**{**given, **changes})


def unknown(at_ms: int, attempt: int = 1, **changes: Any) -> AttemptUnknown:
    given: dict[str, Any] = {
        "id": f"{changes.get('job_id', JOB)}/{attempt}/unknown",
        "at_ms": at_ms,
        "job_id": JOB,
        "attempt": attempt,
        "reason": "connection reset",
    }
    return AttemptUnknown(**{**given, **changes})


def settled(
    at_ms: int, status: SettledStatus = "completed", attempt: int = 1, response_id: str = RESP, **changes: Any
) -> AttemptSettled:
    given: dict[str, Any] = {
        "id": f"{response_id}/settled",
        "at_ms": at_ms,
        "job_id": JOB,
        "attempt": attempt,
        "response_id": response_id,
        "status": status,
        "found_by": "webhook",
        "polls": 1,
    }
    return AttemptSettled(**{**given, **changes})


def admitted(at_ms: int = T0 + 1_000, job_id: str = JOB) -> JobAdmitted:
    return JobAdmitted(
        id=f"{job_id}/admitted", at_ms=at_ms, job_id=job_id, reserved_tokens=1_500, waited_for="tokens_per_min"
    )  # fmt: skip


def fallback_taken(at_ms: int, number: int = 1) -> FallbackTaken:
    return FallbackTaken(
        id=f"{JOB}/fallback/{number}", at_ms=at_ms, job_id=JOB, number=number, closed_ms=61_000, code="invalid_api_key"
    )


def found_too_late(at_ms: int = T0 + 1_000, job_id: str = JOB, needs_ms: int = 60_000) -> JobFoundTooLate:
    return JobFoundTooLate(id=f"{job_id}/too_late", at_ms=at_ms, job_id=job_id, needs_ms=needs_ms)


PERMIT = HedgePermit(age_ms=200_000, after_ms=190_000, share=0.02, ended=300)


def hedge_permitted(at_ms: int, attempt: int = 1, response_id: str = RESP, **changes: Any) -> HedgePermitted:
    given: dict[str, Any] = {
        "id": f"{response_id}/hedge/{at_ms}",
        "at_ms": at_ms,
        "job_id": JOB,
        "attempt": attempt,
        "response_id": response_id,
        "permit": PERMIT,
    }
    return HedgePermitted(**{**given, **changes})


def job_timer(due_ms: int, at_ms: int | None = None, job_id: str = JOB) -> JobTimerFired:
    """Fired on time, where `at_ms` is not given."""
    return JobTimerFired(
        id=f"{job_id}/timer/{due_ms}", at_ms=due_ms if at_ms is None else at_ms, job_id=job_id, due_ms=due_ms
    )


def webhook(at_ms: int, webhook_id: str = "wh_1", response_id: str = RESP, **changes: Any) -> WebhookReceived:
    given: dict[str, Any] = {
        "id": webhook_id,
        "at_ms": at_ms,
        "response_id": response_id,
        "webhook_id": webhook_id,
        "event_type": "response.completed",
        "sent_at_ms": at_ms,
        "key_id": "k1",
        "raw": "{}",
        "claim_by_ms": at_ms + 15_000,
        "forget_after_ms": FORGET_AFTER,
    }
    return WebhookReceived(**{**given, **changes})


def claimed(at_ms: int, response_id: str = RESP, **changes: Any) -> ResponseClaimed:
    given: dict[str, Any] = {
        "id": f"{response_id}/claimed",
        "at_ms": at_ms,
        "response_id": response_id,
        "job_id": JOB,
        "attempt": 1,
        "tenant": TENANT,
        "poll_at_ms": at_ms + 20_000,
        "last_poll_at_ms": DEADLINE - 10_000,
        "missing_grace_ms": POLICY.missing_grace_ms,
        "forget_after_ms": FORGET_AFTER,
    }
    return ResponseClaimed(**{**given, **changes})


def released(at_ms: int, response_id: str = RESP, job_id: str = JOB) -> ResponseReleased:
    return ResponseReleased(id=f"{response_id}/released", at_ms=at_ms, response_id=response_id, job_id=job_id)


def deadline_moved(at_ms: int, deadline_at_ms: int, change: int = 1, **changes: Any) -> ResponseDeadlineMoved:
    response_id = changes.get("response_id", RESP)
    given: dict[str, Any] = {
        "id": f"{response_id}/deadline/{change}",
        "at_ms": at_ms,
        "response_id": response_id,
        "job_id": JOB,
        "last_poll_at_ms": deadline_at_ms - 10_000,
        "change": change,
    }
    return ResponseDeadlineMoved(**{**given, **changes})


def observed(
    at_ms: int, outcome: Outcome = "completed", response_id: str = RESP, **changes: Any
) -> ResponseObserved:  # fmt: skip
    given: dict[str, Any] = {
        "id": f"{response_id}/observed/{at_ms}",
        "at_ms": at_ms,
        "response_id": response_id,
        "command_id": "poll",
        "outcome": outcome,
        "next_poll_at_ms": at_ms + 30_000,
    }
    return ResponseObserved(**{**given, **changes})


def poll_failed(at_ms: int, response_id: str = RESP, **changes: Any) -> PollFailed:
    given: dict[str, Any] = {
        "id": f"{response_id}/failed/{at_ms}",
        "at_ms": at_ms,
        "response_id": response_id,
        "command_id": "poll",
        "reason": "edge page",
        "next_poll_at_ms": at_ms + 30_000,
    }
    return PollFailed(**{**given, **changes})


def response_timer(
    due_ms: int, at_ms: int | None = None, response_id: str = RESP, next_poll_at_ms: int | None = None, **changes: Any
) -> ResponseTimerFired:
    """Fired on time, where `at_ms` is not given."""
    fired_ms = due_ms if at_ms is None else at_ms
    return ResponseTimerFired(
        id=f"{response_id}/timer/{due_ms}",
        at_ms=fired_ms,
        response_id=response_id,
        due_ms=due_ms,
        next_poll_at_ms=fired_ms + 60_000 if next_poll_at_ms is None else next_poll_at_ms,
        **changes,
    )
