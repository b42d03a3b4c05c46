"""Facts for the read model's tests, and logs of whole jobs. Times are small numbers, so that a test can name them."""

from typing import Any, Literal, cast

from backstop.readmodel.batch import Fact, ParsedRecord
from backstop.readmodel.rows import Position
from schemas.base import InlineBody, Message, Usage
from schemas.codec import encode
from schemas.jobs import (
    AttemptAccepted,
    AttemptRejected,
    AttemptSettled,
    AttemptUnknown,
    CancelRequested,
    JobFact,
    JobRefused,
    JobSubmitted,
    JobTimerFired,
    ResponseAdopted,
)
from schemas.responses import ResponseClaimed, ResponseObserved, WebhookReceived
from schemas.results import JobResult
from streams.fold.job import Absent, JobState, step
from streams.submission import SubmissionPolicy

DEADLINE_MS = 10_000_000
PROMPT = "canary prompt, seen nowhere but in its own record"


def submitted(job_id: str = "j", at_ms: int = 1_000, **changes: Any) -> JobSubmitted:
    fields: dict[str, Any] = {
        "id": f"{job_id}/submitted",
        "at_ms": at_ms,
        "job_id": job_id,
        "tenant": "default",
        "ingress": "http",
        "model": "gpt-5",
        "request": InlineBody(value={"model": "gpt-5", "input": PROMPT}),
        "request_sha256": "a" * 64,
        "deadline_at_ms": DEADLINE_MS,
        "policy": SubmissionPolicy().stamp(None),
    }
    return JobSubmitted(**(fields | changes))


def accepted(job_id: str = "j", at_ms: int = 2_000, attempt: int = 1, response_id: str = "resp_1") -> AttemptAccepted:
    return AttemptAccepted(
        id=f"{job_id}/{attempt}/accepted/{response_id}",
        at_ms=at_ms,
        job_id=job_id,
        attempt=attempt,
        tenant="default",
        response_id=response_id,
        status="queued",
        poll_at_ms=at_ms + 5_000,
    )


def rejected(job_id: str = "j", at_ms: int = 2_000, attempt: int = 1, cause: Any = "faulty") -> AttemptRejected:
    return AttemptRejected(
        id=f"{job_id}/{attempt}/rejected",
        at_ms=at_ms,
        job_id=job_id,
        attempt=attempt,
        cause=cause,
        code="rate_limit_exceeded",
        message=PROMPT,
        http_status=429,
    )


def unknown(job_id: str = "j", at_ms: int = 2_000, attempt: int = 1) -> AttemptUnknown:
    return AttemptUnknown(
        id=f"{job_id}/{attempt}/unknown", at_ms=at_ms, job_id=job_id, attempt=attempt, reason="timeout"
    )


def settled(
    job_id: str = "j", at_ms: int = 9_000, attempt: int = 1, response_id: str = "resp_1", output: str = "an answer"
) -> AttemptSettled:
    return AttemptSettled(
        id=f"{response_id}/settled",
        at_ms=at_ms,
        job_id=job_id,
        attempt=attempt,
        response_id=response_id,
        status="completed",
        response=InlineBody(value={"id": response_id, "status": "completed", "output_text": output}),
        usage=Usage(input_tokens=5, output_tokens=7, total_tokens=12),
        found_by="webhook",
        polls=1,
        webhook_at_ms=8_900,
        provider_created_at_ms=2_000,
        provider_ended_at_ms=8_000,
    )


def cancelled(job_id: str = "j", at_ms: int = 3_000) -> CancelRequested:
    return CancelRequested(id=f"{job_id}/cancel", at_ms=at_ms, job_id=job_id, tenant="default", ingress="http")


def refused(job_id: str = "j", at_ms: int = 1_000) -> JobRefused:
    return JobRefused(
        id=f"{job_id}/refused",
        at_ms=at_ms,
        job_id=job_id,
        tenant="default",
        code="invalid",
        message=PROMPT,
        forget_after_ms=1_000,
    )


def timer(job_id: str = "j", at_ms: int = 5_000, due_ms: int = 5_000) -> JobTimerFired:
    return JobTimerFired(id=f"{job_id}/timer/{due_ms}", at_ms=at_ms, job_id=job_id, due_ms=due_ms)


def webhook(response_id: str = "resp_1", at_ms: int = 8_900) -> WebhookReceived:
    return WebhookReceived(
        id=f"wh_{response_id}",
        at_ms=at_ms,
        response_id=response_id,
        webhook_id=f"wh_{response_id}",
        event_type="response.completed",
        sent_at_ms=at_ms,
        key_id="k",
        raw="{}",
        claim_by_ms=at_ms + 1_000,
        forget_after_ms=1_000,
    )


def adopted(job_id: str = "j", response_id: str = "resp_1", at_ms: int = 1_000, **changes: Any) -> ResponseAdopted:
    fields: dict[str, Any] = {
        "id": f"{job_id}/adopted",
        "at_ms": at_ms,
        "job_id": job_id,
        "tenant": "default",
        "ingress": "http",
        "response_id": response_id,
        "request_sha256": "b" * 64,
        "deadline_at_ms": DEADLINE_MS,
        "poll_at_ms": at_ms,
        "policy": SubmissionPolicy().stamp(0),
    }
    return ResponseAdopted(**{**fields, **changes})


def claimed(
    job_id: str = "j", response_id: str = "resp_1", at_ms: int = 2_000, made_elsewhere: Literal[True] | None = None
) -> ResponseClaimed:
    return ResponseClaimed(
        made_elsewhere=made_elsewhere,
        id=f"{response_id}/claimed",
        at_ms=at_ms,
        response_id=response_id,
        job_id=job_id,
        attempt=1,
        tenant="default",
        poll_at_ms=at_ms + 5_000,
        last_poll_at_ms=DEADLINE_MS,
        missing_grace_ms=0,
        forget_after_ms=1_000,
    )


def observed(response_id: str = "resp_1", at_ms: int = 8_950) -> ResponseObserved:
    return ResponseObserved(
        id=f"{response_id}/observed",
        at_ms=at_ms,
        response_id=response_id,
        command_id=f"{response_id}/poll",
        outcome="completed",
        raw_status="completed",
        response=InlineBody(value={"output_text": PROMPT}),
        next_poll_at_ms=at_ms,
    )


def result_of(*facts: Message) -> JobResult:
    """The outputs of the product's own fold for these facts of one job."""
    state: JobState = Absent()
    for fact in facts:
        taken = step(state, cast("JobFact", fact))
        state = taken.state
        for output in taken.outputs:
            if isinstance(output, JobResult):
                return output
    raise AssertionError("these facts end no job")


class Log:
    """Partition 0 of each topic in memory: assigns each fact its offset."""

    def __init__(self) -> None:
        self._next = {"jobs": 0, "responses": 0, "results": 0, "dead-letters": 0}

    def put(self, *facts: Message) -> list[ParsedRecord]:
        return [self._put(fact) for fact in facts]

    def _put(self, fact: Message) -> ParsedRecord:
        offset = self._next[fact.topic]
        self._next[fact.topic] = offset + 1
        return ParsedRecord(Position(fact.topic, 0, offset), cast("Fact", fact), encode(fact))


def whole_job(job_id: str, response_id: str, **changes: Any) -> list[Message]:
    """A job from submission to result, with a webhook before the claim and a fact after the end."""
    facts = [
        submitted(job_id, **changes),
        accepted(job_id, response_id=response_id),
        settled(job_id, response_id=response_id),
    ]
    return [
        facts[0],
        facts[1],
        webhook(response_id),
        claimed(job_id, response_id),
        observed(response_id),
        facts[2],
        result_of(*facts),
        timer(job_id, at_ms=9_500),
    ]
