"""Reports that come after the timer that counted their attempt, and responses of attempts that were refused."""

from typing import Any

import pytest

from schemas.commands import CreateResponse
from schemas.responses import ResponseClaimed, ResponseReleased
from schemas.results import JobResult
from streams.fold import job as jobs
from streams.fold.attempts import Abandoned, OutcomeUnknown, Running
from streams.fold.job import Active, BackingOff, Finished
from streams.fold.rows import decode_job_state, encode_job_state
from streams.fold.step import Ignored
from tests.support.builders import (
    DEADLINE,
    POLICY,
    RESP,
    accepted,
    job_timer,
    rejected,
    settled,
    submitted,
    unknown,
)
from tests.support.given_when_then import fold, fold_one
from tests.unit.streams.fold.cases import AT, GRACE
from tests.unit.streams.fold.states import REPORT_BY

ABANDONED_AT = REPORT_BY + POLICY.adoption_grace_ms
OTHER = "resp_2"


def backing_off(*first: Any) -> BackingOff:
    """Attempt 1 is abandoned, and its retry has not begun."""
    state = fold((*(first or (submitted(),)), job_timer(REPORT_BY), job_timer(ABANDONED_AT)))
    assert isinstance(state, BackingOff)
    return state


def submitting(state: BackingOff) -> Active:
    """Attempt 2 is on its way."""
    after = fold_one(state, job_timer(state.retry_at_ms)).state
    assert isinstance(after, Active)
    return after


def taken(at_ms: int, **changes: Any) -> Any:
    return unknown(at_ms, taken=True, message="{'id': None}", **changes)


def ends_of(state: Any) -> list[Any]:
    """What its timers bring until its deadline, with nothing else."""
    outputs: list[Any] = []
    while not isinstance(state, Finished):
        due_ms = jobs.due_ms(state)
        assert due_ms is not None
        step = fold_one(state, job_timer(due_ms))
        assert step.ignored is None
        outputs, state = [*outputs, *step.outputs], step.state
    return outputs


def test_an_abandoned_attempt_that_was_taken_takes_its_retry_back() -> None:
    before = backing_off()
    step = fold_one(before, taken(ABANDONED_AT + 1))
    state = step.state
    assert isinstance(state, Active)
    assert step.outputs == ()
    assert state.attempts.items == (OutcomeUnknown(1, ABANDONED_AT + 1, said="{'id': None}", taken=True),)
    assert (state.attempts.retries, state.attempts.unknowns) == (0, before.attempts.unknowns)
    assert decode_job_state(encode_job_state(state)) == state
    assert jobs.due_ms(state) == DEADLINE
    (result,) = ends_of(state)
    assert isinstance(result, JobResult)
    assert result.outcome == "expired"
    assert fold_one(state, taken(ABANDONED_AT + 2)).ignored is Ignored.STALE


def test_beside_a_running_successor_it_may_still_win() -> None:
    state = fold_one(
        fold_one(submitting(backing_off()), taken(DEADLINE - 9_000)).state, accepted(DEADLINE - 8_000, 2, OTHER)
    )
    assert isinstance(state.state, Active)
    both = fold_one(state.state, accepted(DEADLINE - 7_000, adopted=True)).state
    assert isinstance(both, Active)
    assert [item.kind for item in both.attempts.items] == ["running", "running"]
    result, release = fold_one(both, settled(DEADLINE - 6_000)).outputs
    assert isinstance(result, JobResult)
    assert isinstance(release, ResponseReleased)
    assert (result.outcome, release.response_id) == ("completed", OTHER)


def test_where_its_successor_fails_it_is_waited_for_and_nothing_is_repeated() -> None:
    state = fold_one(submitting(backing_off()), taken(DEADLINE - 90_000)).state
    failed = fold_one(state, rejected(DEADLINE - 80_000, 2)).state
    assert isinstance(failed, Active)
    assert not [out for out in ends_of(failed) if isinstance(out, CreateResponse)]


def test_an_abandoned_attempt_that_was_answered_counts_as_doubtful() -> None:
    before = backing_off()
    after = fold_one(before, unknown(ABANDONED_AT + 1, answered=True)).state
    assert isinstance(after, BackingOff)
    assert after.attempts.items == (Abandoned(1, answered=True),)
    assert (after.attempts.retries, after.attempts.doubts) == (0, 1)
    assert (after.retry_at_ms, after.why) == (before.retry_at_ms, before.why)
    assert fold_one(after, unknown(ABANDONED_AT + 2, answered=True)).ignored is Ignored.STALE
    found = fold_one(after, accepted(ABANDONED_AT + 3, adopted=True)).state
    assert isinstance(found, Active)
    assert (found.attempts.retries, found.attempts.doubts) == (0, 0)


def test_an_unknown_outcome_learns_that_it_was_answered() -> None:
    unheard = fold((submitted(), job_timer(REPORT_BY)))
    state = fold_one(unheard, unknown(REPORT_BY + 5, answered=True, message="oops")).state
    assert isinstance(state, Active)
    assert state.attempts.items == (OutcomeUnknown(1, ABANDONED_AT, answered=True, said="oops"),)
    assert fold_one(unheard, unknown(REPORT_BY + 5)).ignored is Ignored.STALE


def test_a_job_that_only_waits_for_an_abandoned_attempt_ends_with_its_refusal() -> None:
    second = submitting(backing_off())
    waiting = fold_one(second, rejected(DEADLINE - 90_000, 2, cause="never", code="invalid_prompt")).state
    assert isinstance(waiting, BackingOff)
    assert waiting.last
    (result,) = fold_one(waiting, rejected(DEADLINE - 80_000)).outputs
    assert isinstance(result, JobResult)
    assert result.outcome == "failed"
    assert result.reason is not None
    assert result.reason.code == "invalid_prompt"


def test_the_response_of_a_refused_attempt_takes_the_place_of_the_next_one() -> None:
    state = fold((submitted(), rejected(AT, cause="overloaded")))
    assert isinstance(state, BackingOff)
    step = fold_one(state, accepted(AT + 5, adopted=True))
    assert isinstance(step.state, Active)
    (claim,) = step.outputs
    assert isinstance(claim, ResponseClaimed)
    assert claim.released is None
    assert [type(item) for item in step.state.attempts.items] == [Running]
    assert decode_job_state(encode_job_state(step.state)) == step.state
    assert fold_one(step.state, accepted(AT + 5, adopted=True)).ignored is Ignored.DUPLICATE
    result = fold_one(step.state, settled(AT + GRACE)).outputs[0]
    assert isinstance(result, JobResult)
    assert (result.outcome, result.attempts[0].response_id) == ("completed", RESP)


def test_where_that_has_begun_it_is_cancelled() -> None:
    state = fold((submitted(), rejected(AT, cause="overloaded")))
    assert isinstance(state, BackingOff)
    (claim,) = fold_one(submitting(state), accepted(state.retry_at_ms + 5, adopted=True)).outputs
    assert isinstance(claim, ResponseClaimed)
    assert claim.released is True


@pytest.mark.parametrize(
    ("policy", "late"),
    [
        (POLICY.model_copy(update={"doubts_max": 0}), unknown(ABANDONED_AT + 1, answered=True)),
        (POLICY.model_copy(update={"rejections_max": 0}), rejected(ABANDONED_AT + 1)),
    ],
)
def test_a_late_report_beyond_its_own_budget_takes_none_back(policy: Any, late: Any) -> None:
    state = fold_one(backing_off(submitted(policy=policy)), late).state
    assert isinstance(state, BackingOff)
    assert (state.attempts.retries, state.attempts.doubts, state.attempts.rejections) == (1, 0, 0)


def test_where_it_fails_the_job_goes_on() -> None:
    found = fold((submitted(), rejected(AT, cause="overloaded"), accepted(AT + 5, adopted=True)))
    state = fold_one(found, settled(AT + 9, "failed", cause="faulty")).state
    assert isinstance(state, BackingOff)
    assert (state.attempts.rejections, state.attempts.unpaid_ends) == (1, 1)


def test_a_response_that_a_late_answer_names_for_a_refused_attempt_is_cancelled() -> None:
    """Not adopted: two reports of one create, and the refusal was the first."""
    (claim,) = fold_one(fold((submitted(), rejected(AT))), accepted(AT + 5)).outputs
    assert isinstance(claim, ResponseClaimed)
    assert claim.released is True
