"""A job that waits for its turn: no attempt before its grant, one attempt after it, and an end in any case."""

from dataclasses import replace
from typing import Any

import pytest

from schemas.base import Message
from schemas.commands import CreateResponse
from schemas.jobs import Turn
from schemas.results import JobResult
from streams.fold import job
from streams.fold.job_states import Absent, Finished, Waiting, due_ms, status
from streams.fold.rows import decode_job_state, encode_job_state
from streams.fold.step import Ignored, Step
from tests.support.builders import (
    DEADLINE,
    T0,
    accepted,
    admitted,
    adopted,
    adoption_refused,
    cancel_requested,
    found_too_late,
    job_timer,
    refused,
    rejected,
    settled,
    submitted,
    unknown,
)
from tests.support.given_when_then import given, given_state
from tests.unit.streams.fold.states import active, attempts, backing_off, create, finished, spec
from tests.unit.streams.fold.test_job_matrix import BACKING, FINISHED, RUNNING, SUBMITTING

TURN = Turn(waits=True, priority="bulk", request_bytes=400, output_tokens_max=1_000)
AT = T0 + 1_000
SPEC = replace(spec(), turn=TURN)
WAITING = Waiting(SPEC, attempts(last_number=0), T0)


def test_a_submission_that_must_wait_begins_no_attempt() -> None:
    given_state(Absent()).when(submitted(turn=TURN)).then(Step(WAITING))


def test_a_submission_stamped_otherwise_begins_at_once() -> None:
    stamped = Turn(priority="bulk")
    step = given_state(Absent()).when(submitted(turn=stamped)).step
    assert isinstance(step.state, job.Active)
    assert step.outputs == (create(T0),)


def test_a_grant_begins_the_first_attempt() -> None:
    step = given_state(WAITING).when(admitted(AT)).step
    assert step == Step(replace(active(*step.state.attempts.items), spec=SPEC), (create(AT),))
    assert (step.state.attempts.items[0].number, step.state.attempts.items[0].since_ms) == (1, AT)


def test_a_timer_at_its_time_begins_the_attempt_as_well() -> None:
    step = given_state(WAITING).when(job_timer(T0, AT)).step
    assert step.outputs == (create(AT),)


@pytest.mark.parametrize("state", [SUBMITTING, RUNNING, BACKING])
@pytest.mark.parametrize("fact", [admitted(AT), found_too_late(AT)])
def test_a_second_grant_changes_nothing(state: Any, fact: Message) -> None:
    given_state(state).when(fact).then_ignored(Ignored.STALE)


@pytest.mark.parametrize("fact", [admitted(AT), found_too_late(AT)])
def test_a_grant_of_no_job_or_after_the_end_changes_nothing(fact: Message) -> None:
    given_state(Absent()).when(fact).then_ignored(Ignored.UNKNOWN_KEY)
    given_state(FINISHED).when(fact).then_ignored(Ignored.LATE)


def test_a_grant_after_the_deadline_changes_nothing() -> None:
    given_state(WAITING).when(admitted(DEADLINE)).then_ignored(Ignored.STALE)


def test_a_job_without_enough_time_left_ends_at_once_and_was_never_sent() -> None:
    step = given_state(WAITING).when(found_too_late(DEADLINE - 30_000)).step
    assert step.state == finished("expired", DEADLINE - 30_000)
    (result,) = step.outputs
    assert isinstance(result, JobResult)
    assert result.reason is not None
    assert (result.outcome, result.reason.code, result.attempts) == ("expired", "would_not_finish", ())
    assert result.reason.message == "30000 ms were left, and nine of ten runs of its model take 60000 ms or more"


def test_a_waiting_job_ends_at_its_deadline() -> None:
    step = given_state(WAITING).when(job_timer(T0, DEADLINE)).step
    assert isinstance(step.state, Finished)
    assert step.state.outcome == "expired"
    assert isinstance(step.outputs[0], JobResult)
    assert step.outputs[0].reason is not None
    assert "no attempt began" in step.outputs[0].reason.message


def test_a_cancel_of_a_waiting_job_costs_nothing() -> None:
    step = given_state(WAITING).when(cancel_requested(AT)).step
    assert isinstance(step.state, Finished)
    assert [type(output) for output in step.outputs] == [JobResult]


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        (submitted(turn=TURN), Ignored.DUPLICATE),
        (submitted(turn=TURN, request_sha256="x"), Ignored.CONFLICT),
        (adopted(request_sha256="x"), Ignored.CONFLICT),
        (refused(), Ignored.CONFLICT),
        (adoption_refused(AT), Ignored.STALE),
        (accepted(AT), Ignored.IMPOSSIBLE),
        (rejected(AT), Ignored.STALE),
        (unknown(AT), Ignored.STALE),
        (settled(AT), Ignored.UNKNOWN_KEY),
        (job_timer(T0 + 5, AT), Ignored.STALE),
    ],
)
def test_no_other_fact_moves_it(fact: Message, reason: Ignored) -> None:
    given_state(WAITING).when(fact).then_ignored(reason)


def test_a_command_beside_a_lost_grant_was_not_sent_and_its_number_is_used_up() -> None:
    held = rejected(AT, cause="held", code="grant_not_known", http_status=None, wait_ms=1)
    step = given_state(WAITING).when(held).step
    assert isinstance(step.state, job.BackingOff)
    assert (step.outputs, step.state.attempts.items, step.state.attempts.last_number) == ((), (), 1)
    assert (step.state.attempts.rejections, step.state.retry_at_ms <= AT + 2) == (0, True)
    given_state(step.state).when(admitted(AT + 5)).then_ignored(Ignored.STALE)
    (command,) = given_state(step.state).when(job_timer(step.state.retry_at_ms, AT + 10)).step.outputs
    assert isinstance(command, CreateResponse)
    assert command.attempt == 2


def test_a_report_of_a_later_attempt_does_not_move_it() -> None:
    given_state(WAITING).when(rejected(AT, attempt=2, cause="held")).then_ignored(Ignored.STALE)


def test_it_is_due_at_once_or_when_it_may_begin() -> None:
    assert (status(WAITING), due_ms(WAITING)) == ("waiting", T0)
    later = replace(WAITING, spec=replace(SPEC, turn=TURN.model_copy(update={"not_before_ms": T0 + 60_000})))
    assert due_ms(later) == T0 + 60_000
    never = replace(WAITING, spec=replace(SPEC, turn=TURN.model_copy(update={"not_before_ms": DEADLINE + 60_000})))
    assert due_ms(never) == DEADLINE


def test_its_row_is_read_back_and_rows_without_the_stamp_are_as_before() -> None:
    assert decode_job_state(encode_job_state(WAITING)) == WAITING
    assert b"turn" not in encode_job_state(backing_off(AT, BACKING.why))


def test_the_story_from_the_submission_to_the_create() -> None:
    step = given(submitted(turn=TURN)).when(admitted(AT)).step
    assert [type(output) for output in step.outputs] == [CreateResponse]
