"""A response whose polls are refused for ever, and a create that was taken and named no response."""

from dataclasses import replace
from typing import Any

import pytest

from schemas.base import InlineBody
from schemas.commands import CreateResponse
from schemas.jobs import AttemptEnd, AttemptSettled
from schemas.responses import ResponseObserved, ResponseReleased
from schemas.results import JobResult
from streams.fold import job as jobs
from streams.fold.attempts import OutcomeUnknown
from streams.fold.job import Active, BackingOff, Finished
from streams.fold.response import RunningResponse, SeenSoFar
from streams.fold.response_patience import REFUSED_MS
from streams.fold.rows import decode_job_state, decode_response_state, encode_job_state, encode_response_state
from streams.fold.step import Ignored
from tests.support.builders import (
    DEADLINE,
    POLICY,
    RESP,
    T0,
    accepted,
    claimed,
    job_timer,
    observed,
    settled,
    submitted,
    unknown,
)
from tests.support.given_when_then import fold, fold_one
from tests.unit.streams.fold.cases import AT, GRACE
from tests.unit.streams.fold.states import CLAIM_AT, REPORT_BY

GRACE_ENDS = CLAIM_AT + POLICY.missing_grace_ms
EVERY_MS = 15_000
TO_JOB: dict[str, Any] = {"id": f"{RESP}/missing", "cause": "never", "code": "response_missing"}


def refused(at_ms: int, *, others: bool) -> ResponseObserved:
    return observed(at_ms, "missing", code="http_400", message="no", others_ended_at_ms=at_ms if others else None)


def given_up_after(first: tuple[Any, ...]) -> tuple[AttemptSettled, int]:
    """What the job is told, and how long after the first refusal."""
    state = fold((claimed(CLAIM_AT), *first))
    for at_ms in range(GRACE_ENDS, GRACE_ENDS + 10 * REFUSED_MS, EVERY_MS):
        step = fold_one(state, refused(at_ms, others=True))
        state = step.state
        assert decode_response_state(encode_response_state(state)) == state
        if step.outputs:
            (told,) = step.outputs
            assert isinstance(told, AttemptSettled)
            return told, at_ms - GRACE_ENDS
    raise AssertionError("it is polled for ever")


@pytest.mark.parametrize(("seen", "cause"), [(True, "faulty"), (False, "never")])
def test_it_is_given_up_after_a_stated_time_while_others_end(seen: bool, cause: str) -> None:
    first = (observed(CLAIM_AT + 5, "running", raw_status="queued"),) if seen else ()
    told, after_ms = given_up_after(first)
    assert after_ms == REFUSED_MS
    assert (told.status, told.cause, told.code, told.said_by) == ("missing", cause, "response_missing", "backstop")
    assert told.message == f"its polls were refused for {after_ms} ms: http_400 no"


@pytest.mark.parametrize("first", [(), (observed(CLAIM_AT + 5, "running", raw_status="queued"),)])
def test_where_nothing_can_be_polled_it_is_polled_until_the_deadline_and_its_end_counts(first: tuple[Any, ...]) -> None:
    state = fold((claimed(CLAIM_AT), *first))
    for at_ms in range(GRACE_ENDS, DEADLINE - EVERY_MS, EVERY_MS):
        step = fold_one(state, refused(at_ms, others=False))
        assert step.outputs == ()
        state = step.state
    assert isinstance(state, RunningResponse)
    assert state.sight.told is None
    (end,) = fold_one(state, observed(DEADLINE - 1)).outputs
    assert isinstance(end, AttemptSettled)
    assert end.status == "completed"


@pytest.mark.parametrize(("others_ms", "gives_up"), [(-1, False), (0, False), (1, True)])
def test_only_what_ended_after_the_first_refusal_counts(others_ms: int, gives_up: bool) -> None:
    state = fold((claimed(CLAIM_AT), refused(GRACE_ENDS, others=False)))
    late = refused(GRACE_ENDS + REFUSED_MS, others=False)
    step = fold_one(state, late.model_copy(update={"others_ended_at_ms": GRACE_ENDS + others_ms}))
    assert bool(step.outputs) is gives_up


def test_a_released_response_is_told_missing_by_404s_and_not_by_refused_polls() -> None:
    """As before refused polls were known: a log of an older release gives the same facts."""
    sight = SeenSoFar(status="queued", since_ms=CLAIM_AT, told="stuck")
    running = fold((claimed(CLAIM_AT),))
    assert isinstance(running, RunningResponse)
    for code, outputs in ((None, 1), ("http_400", 0)):
        state: Any = replace(running, released_at_ms=CLAIM_AT + 5, sight=sight)
        for at_ms in (GRACE_ENDS, GRACE_ENDS + REFUSED_MS):
            step = fold_one(state, observed(at_ms, "missing", code=code, others_ended_at_ms=at_ms))
            state = step.state
        assert len(step.outputs) == outputs
        assert state.sight.told == ("missing" if outputs else "stuck")


def test_any_observation_begins_the_patience_anew_and_the_end_still_counts() -> None:
    state = fold((claimed(CLAIM_AT), refused(GRACE_ENDS, others=True)))
    seen_ms = GRACE_ENDS + REFUSED_MS - 1
    state = fold_one(state, observed(seen_ms, "running", raw_status="queued")).state
    assert isinstance(state, RunningResponse)
    assert state.sight.refused_since_ms is None
    assert fold_one(state, refused(seen_ms + 5, others=True)).outputs == ()
    (end,) = fold_one(fold_one(state, refused(seen_ms + 5, others=True)).state, observed(seen_ms + 10)).outputs
    assert isinstance(end, AttemptSettled)
    assert end.status == "completed"


def test_a_404_after_refusals_has_its_own_patience() -> None:
    late_ms = GRACE_ENDS + REFUSED_MS - 1
    state = fold((claimed(CLAIM_AT), refused(GRACE_ENDS, others=True)))
    assert fold_one(state, observed(late_ms, "missing")).outputs == ()


def test_where_no_poll_was_ever_answered_the_job_ends_after_one_create_and_releases_it() -> None:
    job = fold((submitted(), accepted(AT)))
    step = fold_one(job, settled(AT + REFUSED_MS, "missing", **TO_JOB, message="its polls were refused"))
    assert isinstance(step.state, Finished)
    result, release = (output for output in step.outputs if not isinstance(output, CreateResponse))
    assert isinstance(result, JobResult)
    assert isinstance(release, ResponseReleased)
    assert (result.outcome, result.reason.code if result.reason else None) == ("failed", "response_missing")


def test_one_that_was_seen_before_is_tried_again() -> None:
    job = fold((submitted(), accepted(AT)))
    step = fold_one(job, settled(AT + REFUSED_MS, "missing", **{**TO_JOB, "cause": "faulty"}))
    assert isinstance(step.state, BackingOff)


TAKEN = unknown(AT, taken=True, reason="no_usable_id: http_200", message="{'id': None}")


def test_a_create_that_was_taken_waits_for_its_response_until_the_deadline_and_is_never_repeated() -> None:
    state = fold((submitted(), TAKEN))
    assert decode_job_state(encode_job_state(state)) == state
    for due_ms in range(AT, DEADLINE, GRACE):
        step = fold_one(state, job_timer(due_ms))
        assert step.outputs == ()
        state = step.state
    assert isinstance(state, Active)
    (result,) = fold_one(state, job_timer(DEADLINE)).outputs
    assert isinstance(result, JobResult)
    assert result.outcome == "expired"
    assert result.reason is not None
    assert result.reason.message.endswith(
        "the provider took attempt 1 and named no response: it answered \"{'id': None}\""
    )


def test_a_create_whose_report_came_after_its_timer_was_taken_all_the_same() -> None:
    unknown_yet = fold((submitted(), job_timer(REPORT_BY)))
    assert isinstance(unknown_yet, Active)
    late = unknown(REPORT_BY + 5, taken=True, reason="no_usable_id: http_200", message="{'id': None}")
    state = fold_one(unknown_yet, late).state
    assert isinstance(state, Active)
    (item,) = state.attempts.items
    assert isinstance(item, OutcomeUnknown)
    assert (item.taken, item.said) == (True, "{'id': None}")
    assert state.attempts.unknowns == unknown_yet.attempts.unknowns
    assert jobs.due_ms(state) == DEADLINE
    assert fold_one(state, late).ignored is Ignored.STALE
    assert fold_one(unknown_yet, late.model_copy(update={"taken": None})).ignored is Ignored.STALE


def test_its_response_is_adopted_where_a_webhook_names_it() -> None:
    state = fold((submitted(), TAKEN))
    adopted = fold_one(state, accepted(DEADLINE - 60_000, adopted=True)).state
    (result,) = fold_one(adopted, settled(DEADLINE - 1)).outputs
    assert isinstance(result, JobResult)
    assert result.outcome == "completed"


def test_an_id_that_can_not_be_used_ends_the_job_after_one_create() -> None:
    end = AttemptEnd(
        status="failed", cause="never", code="unusable_id", message="it can't be used", said_by="backstop",
        response=InlineBody(value={}),
    )  # fmt: skip
    step = fold_one(fold((submitted(),)), accepted(T0 + 500, end=end))
    (result,) = step.outputs
    assert isinstance(result, JobResult)
    assert (result.outcome, result.reason.code if result.reason else None) == ("failed", "unusable_id")
    assert result.reason is not None
    assert result.reason.said_by is None
