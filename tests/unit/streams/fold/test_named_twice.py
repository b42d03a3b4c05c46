"""A provider, or a cache before it, that names one response for two creates: of two jobs, or of two attempts."""

from typing import Any

import pytest

from schemas.commands import CreateResponse
from schemas.jobs import AdoptionRefused
from schemas.responses import ResponseClaimed
from schemas.results import JobResult
from streams.fold.job import Active, BackingOff
from streams.fold.step import Ignored
from tests.support.builders import (
    RESP,
    T0,
    accepted,
    claimed,
    job_timer,
    observed,
    rejected,
    settled,
    submitted,
    unknown,
)
from tests.support.given_when_then import fold, fold_one
from tests.unit.streams.fold.cases import AT, GRACE


@pytest.mark.parametrize("ended", [False, True])
def test_the_second_job_is_told_and_fails_at_once_and_the_first_one_is_not_touched(ended: bool) -> None:
    held = fold((claimed(T0), *((observed(AT, "completed"),) if ended else ())))
    (claim,) = fold_one(fold((submitted(job_id="job_2"),)), accepted(AT, job_id="job_2")).outputs
    assert isinstance(claim, ResponseClaimed)
    told = fold_one(held, claim)
    assert told.state == held
    (refused,) = told.outputs
    assert isinstance(refused, AdoptionRefused)
    running = fold((submitted(job_id="job_2"), accepted(AT, job_id="job_2")))
    (result,) = fold_one(running, refused).outputs  # And nothing is released: it belongs to the first job.
    assert isinstance(result, JobResult)
    assert result.outcome == "failed"
    assert result.reason is not None
    assert result.reason.code == "response_taken"
    assert "had given out before" in result.reason.message


def test_a_repeated_claim_of_the_same_job_tells_nothing() -> None:
    assert fold_one(fold((claimed(T0),)), claimed(AT)).ignored is Ignored.DUPLICATE


@pytest.mark.parametrize("end", ["failed", "missing"])
def test_a_retry_that_is_answered_with_the_response_before_it_is_tried_again_later(end: Any) -> None:
    failed = fold((submitted(), accepted(AT), settled(AT + 5, end, cause="faulty")))
    assert isinstance(failed, BackingOff)
    retrying = fold_one(failed, job_timer(failed.retry_at_ms)).state
    step = fold_one(retrying, accepted(failed.retry_at_ms + 5, 2))
    assert isinstance(step.state, BackingOff)
    assert step.outputs == ()
    assert (step.state.why.code, step.state.cause, step.state.attempts.rejections) == ("response_repeated", "later", 1)
    third = fold_one(step.state, job_timer(step.state.retry_at_ms)).outputs
    assert [out.attempt for out in third if isinstance(out, CreateResponse)] == [3]


def test_beside_the_attempt_that_runs_it_only_counts() -> None:
    """Attempt 1 was abandoned, and is adopted while the create of attempt 2 is on its way."""
    both = fold((submitted(), unknown(AT), job_timer(AT + GRACE)))
    assert isinstance(both, BackingOff)
    found = fold_one(fold_one(both, job_timer(both.retry_at_ms)).state, accepted(both.retry_at_ms, adopted=True)).state
    after = fold_one(found, accepted(both.retry_at_ms + 5, 2)).state
    assert isinstance(after, Active)
    assert [(item.number, item.kind) for item in after.attempts.items] == [(1, "running")]
    assert fold_one(after, accepted(both.retry_at_ms + 6, 2)).ignored is Ignored.DUPLICATE
    assert fold_one(after, rejected(both.retry_at_ms + 7, 2)).ignored is Ignored.STALE
    assert after.attempts.items[0].response_id == RESP  # type: ignore[union-attr]
