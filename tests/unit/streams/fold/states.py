"""States and outputs as the unit tests of the folds expect them, written out."""

from typing import Any

from schemas.base import Cause
from schemas.commands import CancelResponse, CreateResponse, RetrieveResponse
from schemas.jobs import AttemptAccepted, JobPolicy
from schemas.responses import ResponseClaimed, ResponseReleased
from schemas.results import AttemptBrief, JobResult, Timings
from streams.fold import job, response
from streams.fold.attempts import Attempt, Attempts
from streams.policy.retry import wait_ms
from tests.support.builders import DEADLINE, FORGET_AFTER, JOB, MODEL, POLICY, REQUEST, RESP, T0, TENANT

REPORT_BY = T0 + POLICY.report_timeout_ms


def waits(cause: Cause, *, told_ms: int = 0, refused: int = 0, ended: int = 0, streak: int = 1) -> int:
    """How long job_1 waits. `test_retry.py` checks the value, and that it never changes."""
    return wait_ms(POLICY, f"{JOB}/{refused}/{ended}", cause, told_ms, streak)


def spec(policy: JobPolicy = POLICY, deadline_at_ms: int = DEADLINE) -> job.Spec:
    return job.Spec(TENANT, MODEL, REQUEST, "sha-1", T0, deadline_at_ms, policy, None, ())


def active(*items: Attempt, policy: JobPolicy = POLICY, deadline_at_ms: int = DEADLINE, **counts: Any) -> job.Active:
    return job.Active(spec(policy, deadline_at_ms), attempts(*items, **counts))


def backing_off(retry_at_ms: int, why: Any, *items: Attempt, policy: JobPolicy = POLICY, **counts: Any) -> Any:
    cause = counts.pop("cause", CAUSES.get(why.code, "faulty"))
    return job.BackingOff(
        spec(policy), attempts(*items, **{"streak": 1, "streak_cause": cause, **counts}), retry_at_ms, why, cause
    )  # fmt: skip


CAUSES: dict[str, Cause] = {"rate_limit_exceeded": "limited"}


def attempts(*items: Attempt, **counts: Any) -> Attempts:
    return Attempts(items, **{"last_number": len(items), **counts})


def finished(
    outcome: Any, at_ms: int, *response_ids: str, request_sha256: str = "sha-1", uncounted: tuple[str, ...] = ()
) -> job.Finished:  # fmt: skip
    return job.Finished(TENANT, request_sha256, outcome, at_ms, at_ms + FORGET_AFTER, response_ids, uncounted)


def create(at_ms: int, attempt: int = 1, not_after_ms: int | None = None) -> CreateResponse:
    return CreateResponse(
        id=f"{JOB}/{attempt}/create", at_ms=at_ms, job_id=JOB, attempt=attempt, tenant=TENANT, model=MODEL,
        request=REQUEST,
        not_after_ms=at_ms + POLICY.command_valid_ms if not_after_ms is None else not_after_ms,
    )  # fmt: skip


def claim_of(at_ms: int, attempt: int = 1, response_id: str = RESP, **changes: Any) -> ResponseClaimed:
    """The output of the job fold."""
    given: dict[str, Any] = {
        "id": f"{response_id}/claimed",
        "at_ms": at_ms,
        "response_id": response_id,
        "job_id": JOB,
        "attempt": attempt,
        "tenant": TENANT,
        "poll_at_ms": at_ms + 20_000,
        "last_poll_at_ms": DEADLINE - 10_000,
        "missing_grace_ms": POLICY.missing_grace_ms,
        "forget_after_ms": FORGET_AFTER,
    }
    return ResponseClaimed(**{**given, **changes})


def late_claim_of(at_ms: int, attempt: int, response_id: str) -> ResponseClaimed:
    """Of a response that turned up after the end of its job."""
    return claim_of(at_ms, attempt, response_id, last_poll_at_ms=at_ms + 20_000, missing_grace_ms=60_000, released=True)


def cancel(at_ms: int, command_id: str, response_id: str = RESP, job_id: str | None = JOB) -> CancelResponse:
    return CancelResponse(id=command_id, at_ms=at_ms, response_id=response_id, job_id=job_id)


def release_of(at_ms: int, response_id: str = RESP) -> ResponseReleased:
    return ResponseReleased(id=f"{response_id}/released", at_ms=at_ms, response_id=response_id, job_id=JOB)


def result(outcome: Any, at_ms: int, *briefs: AttemptBrief, **changes: Any) -> JobResult:
    given: dict[str, Any] = {
        "id": f"{JOB}/result",
        "at_ms": at_ms,
        "job_id": JOB,
        "tenant": TENANT,
        "outcome": outcome,
        "model": MODEL,
        "timings": Timings(submitted_at_ms=T0, finished_at_ms=at_ms),
        "attempts": briefs,
    }
    return JobResult(**{**given, **changes})


def brief(
    outcome: str, attempt: int = 1, response_id: str | None = RESP, *, adopted: bool = False, **changes: Any
) -> AttemptBrief:  # fmt: skip
    return AttemptBrief(attempt=attempt, outcome=outcome, response_id=response_id, adopted=adopted, **changes)


def unheard_of(attempt: int = 1) -> AttemptBrief:
    """The brief of an attempt whose outcome is unknown."""
    return AttemptBrief(attempt=attempt, outcome="unknown")


# A response.
CLAIM_AT = T0 + 100


def claim(claimed_at_ms: int = CLAIM_AT, attempt: int = 1) -> response.ResponseClaim:
    return response.ResponseClaim(
        JOB, attempt, TENANT, claimed_at_ms, DEADLINE - 10_000, POLICY.missing_grace_ms, FORGET_AFTER
    )  # fmt: skip


def webhooks(first_at_ms: int, *ids: str, ended_at_ms: int | None = None) -> response.ReceivedWebhooks:
    return response.ReceivedWebhooks(ids or ("wh_1",), first_at_ms, ended_at_ms)


def poll(at_ms: int, cause: str, reason: Any, polls: int = 0, **changes: Any) -> RetrieveResponse:
    """Of a claimed response."""
    given: dict[str, Any] = {
        "id": f"{cause}/poll",
        "at_ms": at_ms,
        "response_id": RESP,
        "reason": reason,
        "job_id": JOB,
        "attempt": 1,
        "accepted_at_ms": CLAIM_AT,
        "polls": polls,
    }
    return RetrieveResponse(**{**given, **changes})


def offer(at_ms: int, status: str = "completed", attempt: int = 1, poll_at_ms: int | None = None) -> AttemptAccepted:
    return AttemptAccepted(
        id=f"{JOB}/{attempt}/accepted/{RESP}", at_ms=at_ms, job_id=JOB, attempt=attempt, tenant=TENANT,
        response_id=RESP,
        status=status, adopted=True, poll_at_ms=at_ms + 30_000 if poll_at_ms is None else poll_at_ms,
    )  # fmt: skip
