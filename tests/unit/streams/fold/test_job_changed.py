"""A change of priority and deadline, in every state of a job: it counts from its place in the log on, once."""

from dataclasses import replace
from typing import Any

import pytest

from schemas.commands import CreateResponse
from schemas.jobs import Turn
from schemas.results import JobResult, Reason
from streams.fold import job, response
from streams.fold.attempts import Abandoned, OutcomeUnknown, Over, Running, Submitting
from streams.fold.job_states import Absent, BackingOff, Finished, Waiting, due_ms
from streams.fold.rows import decode_job_state, decode_response_state, encode_job_state, encode_response_state
from streams.fold.step import Ignored, Step
from tests.support.builders import (
    DEADLINE,
    RESP,
    T0,
    accepted,
    admitted,
    deadline_moved,
    found_too_late,
    job_changed,
    job_timer,
    submitted,
)
from tests.support.given_when_then import given, given_state
from tests.unit.streams.fold.states import active, claim, claim_of, release_of, spec
from tests.unit.streams.fold.test_job_matrix import BACKING, FINISHED, RUNNING, SUBMITTING
from tests.unit.streams.fold.test_job_waiting import TURN, WAITING

AT = T0 + 1_000
LATER = DEADLINE + 600_000
SOONER = T0 + 60_000
UNKNOWN = active(OutcomeUnknown(1, T0 + 90_000))
BESIDE = active(Abandoned(1), Running(2, RESP, T0 + 500, False))
LAST = BackingOff(
    spec(), replace(BACKING.attempts, items=(Abandoned(1),)), DEADLINE, Reason(code="model_not_found"), last=True
)
AGAIN = active(Over(1, "resp_0", "failed", T0, False), Submitting(2, T0 + 900, T0 + 60_900), retries=1)
OPEN = (WAITING, SUBMITTING, RUNNING, UNKNOWN, BESIDE, AGAIN, BACKING, LAST)


def named(state: Any) -> str:
    return f"{job.status(state)}_{len(state.attempts.items)}"


def changed_spec(state: Any, **changes: Any) -> Any:
    return replace(state.spec, **changes, changes=state.spec.changes + 1)


@pytest.mark.parametrize("state", OPEN, ids=named)
def test_another_priority_changes_the_turn_and_nothing_else(state: Any) -> None:
    turn = (state.spec.turn or Turn()).model_copy(update={"priority": "interactive"})
    then = Step(replace(state, spec=changed_spec(state, turn=turn)))
    given_state(state).when(job_changed(AT, priority="interactive")).then(then)


@pytest.mark.parametrize("deadline_ms", [LATER, SOONER])
@pytest.mark.parametrize("state", OPEN, ids=named)
def test_another_deadline_moves_the_timer_and_the_polls(state: Any, deadline_ms: int) -> None:
    step = given_state(state).when(job_changed(AT, deadline_at_ms=deadline_ms)).step
    assert step.state.spec == changed_spec(state, deadline_at_ms=deadline_ms)
    assert step.state.attempts == state.attempts
    own_due = min(due_ms(replace(state, spec=replace(state.spec, deadline_at_ms=10**12))) or 0, deadline_ms)
    assert due_ms(step.state) == (deadline_ms if getattr(state, "last", False) else own_due)
    assert step.outputs == tuple(deadline_moved(AT, deadline_ms) for _ in state.attempts.running())


@pytest.mark.parametrize("state", OPEN, ids=named)
@pytest.mark.parametrize("deadline_ms", [AT, AT - 1, 0])
def test_a_deadline_that_has_passed_ends_the_job_at_once_with_its_reason(state: Any, deadline_ms: int) -> None:
    step = given_state(state).when(job_changed(AT, deadline_at_ms=deadline_ms, by="Ann")).step
    assert isinstance(step.state, Finished)
    result, *releases = step.outputs
    assert isinstance(result, JobResult)
    assert (step.state.outcome, result.outcome) == ("expired", "expired")
    assert result.reason == Reason(
        code="deadline", message="its deadline was moved to a time that has passed: night run (by Ann)"
    )
    assert releases == [release_of(AT) for _ in state.attempts.running()]


@pytest.mark.parametrize("state", OPEN, ids=named)
def test_a_change_to_what_the_job_has_already_changes_nothing(state: Any) -> None:
    priority = (state.spec.turn or Turn()).priority
    given_state(state).when(job_changed(AT, priority=priority)).then_ignored(Ignored.DUPLICATE)
    given_state(state).when(job_changed(AT, deadline_at_ms=DEADLINE)).then_ignored(Ignored.DUPLICATE)
    given_state(state).when(job_changed(AT)).then_ignored(Ignored.DUPLICATE)
    other = job_changed(AT, priority="bulk", deadline_at_ms=LATER)
    once = given_state(state).when(other).step
    given_state(once.state).when(other).then_ignored(Ignored.DUPLICATE)


@pytest.mark.parametrize("state", OPEN, ids=named)
def test_another_tenant_changes_nothing(state: Any) -> None:
    for fields in ({"priority": "interactive"}, {"deadline_at_ms": 0}, {}):
        given_state(state).when(job_changed(AT, tenant="b", **fields)).then_ignored(Ignored.CONFLICT)


def test_no_job_and_a_job_that_has_ended_are_not_changed() -> None:
    given_state(Absent()).when(job_changed(AT, deadline_at_ms=LATER)).then_ignored(Ignored.UNKNOWN_KEY)
    given_state(FINISHED).when(job_changed(AT, deadline_at_ms=LATER)).then_ignored(Ignored.LATE)


def test_the_timer_of_the_old_deadline_is_stale_and_that_of_the_new_one_ends_the_job() -> None:
    extended = given_state(RUNNING).when(job_changed(AT, deadline_at_ms=LATER)).step.state
    given_state(extended).when(job_timer(DEADLINE)).then_ignored(Ignored.STALE)
    step = given_state(extended).when(job_timer(LATER)).step
    assert isinstance(step.state, Finished)
    assert step.state.outcome == "expired"


def test_an_extended_deadline_saves_a_job_from_a_finding_that_is_older() -> None:
    extended = given_state(WAITING).when(job_changed(AT, deadline_at_ms=LATER)).step.state
    given_state(extended).when(found_too_late(DEADLINE - 30_000)).then_ignored(Ignored.STALE)
    shortened = given_state(WAITING).when(job_changed(AT, deadline_at_ms=SOONER)).step.state
    assert isinstance(given_state(shortened).when(found_too_late(SOONER - 1)).step.state, Finished)


def test_attempts_that_begin_later_follow_the_new_deadline() -> None:
    step = given(submitted(turn=TURN), job_changed(AT, deadline_at_ms=AT + 5_000)).when(admitted(AT + 1)).step
    (create,) = step.outputs
    assert isinstance(create, CreateResponse)
    assert create.not_after_ms == AT + 5_000
    claimed = given_state(step.state).when(accepted(AT + 2)).step.outputs
    assert claimed == (claim_of(AT + 2, last_poll_at_ms=AT + 5_000 - 10_000),)


def test_the_row_comes_back_and_a_row_without_changes_is_as_before() -> None:
    for state in OPEN:
        after = given_state(state).when(job_changed(AT, priority="interactive", deadline_at_ms=LATER)).step.state
        assert decode_job_state(encode_job_state(after)) == after
        assert b"changes" not in encode_job_state(state)
        assert b"retry_of" not in encode_job_state(state)


MOVED = response.RunningResponse(claim(), T0 + 20_000)


def test_a_moved_deadline_moves_the_last_poll_and_the_time_from_which_a_poll_is_a_cancel() -> None:
    step = given_state(MOVED).when(deadline_moved(AT, LATER)).step
    assert step.outputs == ()
    assert step.state.over_at_ms == LATER
    assert step.state.poll_at_ms == MOVED.poll_at_ms
    near = given_state(MOVED).when(deadline_moved(AT, AT + 15_000)).step.state
    assert (near.poll_at_ms, near.over_at_ms) == (AT + 5_000, AT + 15_000)
    nearer = given_state(MOVED).when(deadline_moved(AT, AT + 3_000)).step.state
    assert (nearer.poll_at_ms, nearer.over_at_ms) == (AT, AT + 3_000)
    assert decode_response_state(encode_response_state(near)) == near
    assert b"change" not in encode_response_state(MOVED)


def test_an_older_move_that_comes_again_changes_nothing() -> None:
    second = given_state(MOVED).when(deadline_moved(AT, LATER, change=2)).step.state
    for change in (1, 2):
        given_state(second).when(deadline_moved(AT + 5, SOONER, change=change)).then_ignored(Ignored.STALE)


def test_a_waiting_job_that_was_changed_begins_with_a_grant() -> None:
    after = given_state(WAITING).when(job_changed(AT, priority="interactive")).step.state
    assert isinstance(after, Waiting)
    assert isinstance(given_state(after).when(admitted(AT)).step.state, job.Active)
