"""Usage that is in no result is booked by a fact of its own, once per response."""

from typing import Any

import pytest

from schemas.base import InlineBody, Usage
from schemas.jobs import AttemptEnd, UsageBooked
from streams.fold.job import Active, Finished
from streams.fold.step import Ignored, Step
from tests.support.builders import (
    DEADLINE,
    JOB,
    RESP,
    T0,
    TENANT,
    accepted,
    cancel_requested,
    job_timer,
    settled,
    submitted,
)
from tests.support.given_when_then import given

AT = T0 + 5_000
COST = Usage(input_tokens=3, output_tokens=4, total_tokens=7)
ACCEPTED = (submitted(), accepted(AT))


def booked(at_ms: int, response_id: str = RESP, attempt: int = 1) -> UsageBooked:
    return UsageBooked(
        id=f"{response_id}/usage",
        at_ms=at_ms,
        job_id=JOB,
        tenant=TENANT,
        attempt=attempt,
        response_id=response_id,
        usage=COST,
    )


@pytest.mark.parametrize("end", [cancel_requested(AT + 100), job_timer(DEADLINE)])
@pytest.mark.parametrize("status", ["completed", "failed", "incomplete", "cancelled"])
def test_the_usage_of_a_response_that_ended_after_its_job_is_booked_once(end: Any, status: str) -> None:
    history = given(*ACCEPTED, end)
    late = settled(DEADLINE + 50, status=status, usage=COST)  # type: ignore[arg-type]
    seen = history.when(late)
    assert seen.step.outputs == (booked(DEADLINE + 50),)
    given(*ACCEPTED, end, late).when(late).then_ignored(Ignored.LATE)
    given(*ACCEPTED, end, late).when(booked(DEADLINE + 50)).then_ignored(Ignored.DUPLICATE)


def test_the_usage_of_a_late_unknown_response_is_booked() -> None:
    history = (submitted(), cancel_requested(AT), accepted(AT + 50), settled(AT + 90, status="cancelled", usage=COST))
    assert given(*history[:3]).when(history[3]).step.outputs == (booked(AT + 90),)
    given(*history).when(history[3]).then_ignored(Ignored.LATE)


def test_usage_in_the_result_is_not_booked_again() -> None:
    end = settled(AT + 100, status="completed", usage=COST)
    given(*ACCEPTED, end).when(end).then_ignored(Ignored.LATE)


@pytest.mark.parametrize("usage", [None, Usage()])
def test_an_end_without_cost_is_late_and_nothing_more(usage: Usage | None) -> None:
    end = settled(AT + 200, status="cancelled", usage=usage)
    given(*ACCEPTED, cancel_requested(AT + 100)).when(end).then_ignored(Ignored.LATE)


def test_a_second_response_of_an_attempt_is_booked_while_the_job_is_open_and_only_once() -> None:
    second = accepted(AT + 10, response_id="resp_b")
    end = settled(AT + 90, response_id="resp_b", status="cancelled", usage=COST)
    assert given(*ACCEPTED, second).when(end).step.outputs == (booked(AT + 90, "resp_b"),)
    given(*ACCEPTED, second, end).when(end).then_ignored(Ignored.DUPLICATE)
    after = given(*ACCEPTED, second, end, settled(AT + 200, status="completed")).state
    assert isinstance(after, Finished)
    assert set(after.response_ids) == {RESP, "resp_b"}
    given(*ACCEPTED, second, end, settled(AT + 200, status="completed")).when(end).then_ignored(Ignored.LATE)


@pytest.mark.parametrize("over", [False, True])
def test_a_second_response_that_ended_in_its_creates_own_answer_is_booked(over: bool) -> None:
    end = AttemptEnd(status="completed", response=InlineBody(value={}), usage=COST)
    second = accepted(AT + 90, response_id="resp_b", end=end)
    history = (*ACCEPTED, cancel_requested(AT + 50)) if over else ACCEPTED
    assert given(*history).when(second).step.outputs == (booked(AT + 90, "resp_b"),)
    assert given(*history, second).when(second).step.outputs == ()


def test_a_response_that_was_given_up_and_turns_up_failed_still_counts() -> None:
    """Its successor makes the result; both are in its usage."""
    given_up = settled(AT + 100, status="missing")
    turned_up = settled(AT + 300, status="failed", usage=COST)
    seen = given(*ACCEPTED, given_up).when(turned_up)
    assert isinstance(seen.step, Step)
    assert seen.step.ignored is None
    assert seen.step.outputs == ()
    assert not isinstance(seen.step.state, Active)
    assert seen.step.state.attempts.usage() == COST
    given(*ACCEPTED, given_up, turned_up).when(turned_up).then_ignored(Ignored.DUPLICATE)
