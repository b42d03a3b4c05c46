"""A hedge in the folds: when it is asked for and granted, which attempt wins, and what it costs."""

from dataclasses import replace
from typing import Any

import pytest

from schemas.base import Usage
from schemas.hedges import HedgeTerms
from schemas.jobs import HedgePermitted
from schemas.responses import ResponseClaimed
from schemas.results import AttemptBrief, HedgeBrief, JobResult, Reason
from streams.fold import job
from streams.fold.attempts import Abandoned, Attempts, Hedged, OutcomeUnknown, Over, Running, Submitting
from streams.fold.rows import decode_job_state, encode_job_state
from streams.fold.step import Ignored, Step
from tests.support.builders import (
    DEADLINE,
    JOB,
    MODEL,
    PERMIT,
    POLICY,
    RESP,
    T0,
    accepted,
    cancel_requested,
    hedge_permitted,
    job_timer,
    rejected,
    settled,
    submitted,
    unknown,
)
from tests.unit.streams.fold.cases import PAID, SERVER_ERROR, decided, failed
from tests.unit.streams.fold.states import (
    active,
    brief,
    claim_of,
    create,
    finished,
    release_of,
    result,
)

AT = T0 + 300_000
HEDGING = POLICY.model_copy(update={"hedge": True})
ONE_RETRY = HEDGING.model_copy(update={"retries_max": 0})
TWIN = "resp_2"
FIRST = Running(1, RESP, T0 + 500, False)
SECOND = Running(2, TWIN, AT + 500, False)
HEDGED = Hedged(2, 1, PERMIT.age_ms)
SLOW = active(FIRST, policy=HEDGING)
BEGUN = active(
    FIRST, Submitting(2, AT, AT + POLICY.report_timeout_ms), policy=HEDGING, hedge=HEDGED
)  # fmt: skip
BOTH = active(FIRST, SECOND, policy=HEDGING, hedge=HEDGED)
LATER = AT + 60_000
TERMS = HedgeTerms(model=MODEL, at_ms=T0 + 190_000)


def told(**changes: Any) -> HedgeBrief:
    return HedgeBrief(attempt=2, beside=1, begun_after_ms=PERMIT.age_ms, **changes)


def result_of(done: Step[Any]) -> JobResult:
    assert isinstance(done.outputs[0], JobResult)
    return done.outputs[0]


def won(done: Step[Any]) -> str | None:
    brief = result_of(done).hedge
    assert brief is not None
    return brief.won


def test_the_create_and_the_claim_of_a_job_that_may_be_hedged_say_so() -> None:
    begun = job.step(job.Absent(), submitted(policy=HEDGING))
    assert begun.outputs == (create(T0).model_copy(update={"hedge": True}),)
    ran = job.step(begun.state, accepted(T0 + 500, hedge_at_ms=TERMS.at_ms))
    assert ran == Step(SLOW, (claim_of(T0 + 500, hedge=TERMS),))


def test_without_the_policy_no_record_says_anything_of_hedges() -> None:
    begun = job.step(job.Absent(), submitted())
    ran = job.step(begun.state, accepted(T0 + 500, hedge_at_ms=T0 + 190_000))
    assert b"hedge" not in encode_job_state(ran.state)
    assert all("hedge" not in output.model_dump(exclude_none=True) for output in (*begun.outputs, *ran.outputs))


def test_a_permission_begins_a_second_attempt_of_the_same_request() -> None:
    assert job.step(SLOW, hedge_permitted(AT)) == Step(BEGUN, (create(AT, 2),))


@pytest.mark.parametrize(
    ("said", "state", "event", "reason"),
    [
        ("one a job", BOTH, hedge_permitted(AT), Ignored.DUPLICATE),
        ("also after the hedge was refused", replace(SLOW, attempts=replace(SLOW.attempts, hedge=HEDGED)),
         hedge_permitted(AT), Ignored.DUPLICATE),
        ("the job does not ask for it", active(FIRST), hedge_permitted(AT), Ignored.IMPOSSIBLE),
        ("a response that is not of the job", SLOW, hedge_permitted(AT, response_id="x"), Ignored.STALE),
        ("the attempt is over", active(Over(1, RESP, "failed", T0, False), policy=HEDGING), hedge_permitted(AT),
         Ignored.STALE),
        ("another attempt is live", active(FIRST, OutcomeUnknown(2, AT + 9), policy=HEDGING), hedge_permitted(AT),
         Ignored.STALE),
        ("the deadline has passed", SLOW, hedge_permitted(DEADLINE), Ignored.STALE),
        ("the job has ended", finished("completed", AT, RESP), hedge_permitted(AT), Ignored.LATE),
        ("no job", job.Absent(), hedge_permitted(AT), Ignored.UNKNOWN_KEY),
        ("the job backs off", job.BackingOff(SLOW.spec, Attempts(last_number=1), AT + 5, SERVER_ERROR),
         hedge_permitted(AT), Ignored.STALE),
        ("the job waits for its turn", job.Waiting(SLOW.spec, Attempts(), T0), hedge_permitted(AT), Ignored.STALE),
        ("an adopted response can't be created again", replace(SLOW, spec=replace(SLOW.spec, request=None)),
         hedge_permitted(AT), Ignored.IMPOSSIBLE),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)  # fmt: skip
def test_no_hedge(said: str, state: Any, event: HedgePermitted, reason: Ignored) -> None:
    assert job.step(state, event) == Step(state, ignored=reason), said


def test_an_abandoned_attempt_does_not_prevent_a_hedge() -> None:
    state = active(Abandoned(1), Running(2, RESP, T0, False), policy=HEDGING, retries=1)
    assert isinstance(job.step(state, hedge_permitted(AT, 2)).state, job.Active)


def test_the_hedge_itself_is_not_hedged() -> None:
    ran = job.step(BEGUN, accepted(AT + 500, 2, TWIN))
    assert ran == Step(BOTH, (claim_of(AT + 500, 2, TWIN),))


def test_the_hedge_wins() -> None:
    done = job.step(BOTH, settled(LATER, "completed", 2, TWIN, usage=PAID))
    assert done == Step(
        finished("completed", LATER, RESP, TWIN, uncounted=(RESP,)),
        (
            result(
                "completed", LATER, brief("running"), brief("completed", 2, TWIN, usage=PAID), usage=PAID,
                found_by="webhook", timings=decided(LATER, AT + 500),
                hedge=told(won="hedge", ahead_ms=AT - T0),
            ),
            release_of(LATER),
        ),
    )  # fmt: skip


def test_the_first_attempt_wins() -> None:
    done = job.step(BOTH, settled(LATER))
    assert result_of(done).hedge == told(won="first")
    assert done.outputs[1:] == (release_of(LATER, TWIN),)


def test_the_order_of_the_log_decides_and_no_clock_does() -> None:
    """The hedge's end comes first in the log, with later stamps of both clocks."""
    second = settled(LATER + 9_000, "completed", 2, TWIN, provider_ended_at_ms=LATER + 8_000)
    first = settled(LATER, "completed", 1, RESP, provider_ended_at_ms=LATER - 5_000)
    done = job.step(BOTH, second)
    assert won(done) == "hedge"
    assert job.step(done.state, first).ignored is Ignored.LATE


TAKEN = OutcomeUnknown(2, AT + 9_000, said="{}", taken=True)
BESIDE_TAKEN = active(FIRST, TAKEN, policy=HEDGING, hedge=HEDGED)


def test_a_hedge_that_was_taken_and_named_no_response_holds_no_retry_back() -> None:
    waits = job.step(BESIDE_TAKEN, failed(LATER, usage=PAID)).state
    assert isinstance(waits, job.BackingOff)
    assert (waits.attempts.retries, waits.attempts.accounted()) == (1, 2)
    assert decode_job_state(encode_job_state(waits)) == waits
    begun = job.step(waits, job_timer(waits.retry_at_ms))
    assert begun.outputs[0].id.endswith("/3/create")
    refused = job.step(begun.state, rejected(LATER + 9_000, 3)).state
    assert isinstance(refused, job.BackingOff)
    lost = job.step(begun.state, unknown(LATER + 9_000, 3)).state
    assert isinstance(lost, job.Active)
    due_ms = job.due_ms(lost)
    assert due_ms is not None
    assert isinstance(job.step(lost, job_timer(due_ms)).state, job.BackingOff)
    adopted = job.step(refused, accepted(LATER + 9_500, 2, TWIN, adopted=True)).state
    assert result_of(job.step(adopted, settled(LATER + 9_900, "completed", 2, TWIN))).outcome == "completed"


def test_beside_such_a_hedge_the_job_ends_as_without_one_where_no_retry_is_left() -> None:
    last = replace(BESIDE_TAKEN, spec=replace(BESIDE_TAKEN.spec, policy=ONE_RETRY))
    assert result_of(job.step(last, failed(LATER, usage=PAID))).outcome == "failed"
    assert result_of(job.step(last, settled(LATER, "cancelled"))).outcome == "cancelled"


def test_an_attempt_under_an_id_that_can_not_be_used_counts_as_paid() -> None:
    state = job.step(BOTH, failed(LATER, code="unusable_id", cause="never")).state
    assert isinstance(state, job.Active)
    assert (state.attempts.retries, state.attempts.unpaid_ends) == (1, 0)


def test_an_attempt_that_is_no_hedge_and_was_taken_holds_the_next_one_back() -> None:
    """Each of them was granted as a retry, so one more would be paid beyond the budget."""
    state = active(FIRST, TAKEN, policy=HEDGING, retries=1)
    assert isinstance(job.step(state, failed(LATER)).state, job.Active)


@pytest.mark.parametrize("status", ["failed", "cancelled", "missing", "stuck"])
@pytest.mark.parametrize("number", [1, 2])
def test_an_attempt_that_did_not_complete_ends_nothing_while_the_other_runs(status: Any, number: int) -> None:
    """Also where no retry is left."""
    both = replace(BOTH, spec=replace(BOTH.spec, policy=ONE_RETRY))
    end = failed(LATER, number, f"resp_{number}", usage=PAID) if status == "failed" else settled(
        LATER, status, number, f"resp_{number}")  # fmt: skip
    one = job.step(both, end)
    assert isinstance(one.state, job.Active)
    other = 3 - number
    done = job.step(one.state, settled(LATER + 5, "completed", other, f"resp_{other}"))
    assert isinstance(done.state, job.Finished)
    assert result_of(done).outcome == "completed"
    assert won(done) == ("first", "hedge")[other - 1]


def test_both_failed_and_the_hedge_took_no_retry() -> None:
    one = job.step(BOTH, failed(LATER, 2, TWIN, usage=PAID))
    assert one.state.attempts.spent().paid == 0  # type: ignore[union-attr]
    assert one.state.attempts.accounted() == 2  # type: ignore[union-attr]
    two = job.step(one.state, failed(LATER + 5, usage=PAID))
    assert isinstance(two.state, job.BackingOff)
    assert two.state.attempts.spent().paid == 1
    assert two.state.attempts.accounted() == 2


@pytest.mark.parametrize("hedge_first", [True, False])
def test_both_failed_and_no_retry_is_left(hedge_first: bool) -> None:
    both = replace(BOTH, spec=replace(BOTH.spec, policy=ONE_RETRY))
    ends = [failed(LATER, 2, TWIN, usage=PAID), failed(LATER + 5, usage=PAID)]
    first, second = ends if hedge_first else reversed(ends)
    done = job.step(job.step(both, first).state, second)
    assert isinstance(done.state, job.Finished)
    assert result_of(done).outcome == "failed"
    assert result_of(done).hedge == told()
    assert result_of(done).usage == Usage(input_tokens=10, output_tokens=4, total_tokens=14)


def test_a_refused_hedge_leaves_the_first_attempt_alone() -> None:
    after = job.step(BEGUN, rejected(AT + 500, 2))
    assert after == Step(replace(SLOW, attempts=replace(
        SLOW.attempts, last_number=2, hedge=HEDGED, rejections=1)))  # fmt: skip
    assert result_of(job.step(after.state, settled(LATER))).hedge == told(won="first")


def test_a_refusal_of_the_hedge_grants_no_retry_that_is_used_up() -> None:
    begun = replace(BEGUN, spec=replace(BEGUN.spec, policy=ONE_RETRY))
    one = job.step(begun, failed(AT + 400, usage=PAID))
    done = job.step(one.state, rejected(AT + 500, 2))
    assert isinstance(done.state, job.Finished)


def test_a_hedge_whose_outcome_stays_unknown_takes_no_retry_and_may_still_win() -> None:
    one = job.step(BEGUN, unknown(AT + 500, 2))
    due = job.due_ms(one.state)
    assert due is not None
    two = job.step(one.state, job_timer(due))
    assert isinstance(two.state, job.Active)
    assert two.state.attempts.spent().paid == 0
    assert two.state.attempts.accounted() == 2
    found = job.step(two.state, accepted(due + 5, 2, TWIN, adopted=True))
    assert isinstance(found.state, job.Active)
    assert found.state.attempts.accounted() == 2
    assert won(job.step(found.state, settled(due + 9, "completed", 2, TWIN))) == "hedge"


def test_a_hedge_continues_no_completion_window() -> None:
    state = replace(SLOW, attempts=replace(SLOW.attempts, continuation_id="c"))
    assert job.step(state, hedge_permitted(AT)).outputs == (create(AT, 2),)


def test_a_cancel_and_the_deadline_release_both() -> None:
    for event in (cancel_requested(LATER), job_timer(DEADLINE)):
        done = job.step(BOTH, event)
        assert done.outputs[1:] == (release_of(event.at_ms), release_of(event.at_ms, TWIN))
        assert result_of(done).hedge == told()


def test_a_late_end_of_the_loser_is_recorded_and_its_tokens_are_booked() -> None:
    done = job.step(BOTH, settled(LATER, "completed", 2, TWIN, usage=PAID))
    late = job.step(done.state, settled(LATER + 500, "cancelled", usage=PAID))
    assert [type(output).__name__ for output in late.outputs] == ["UsageBooked"]
    assert job.step(late.state, settled(LATER + 600, "cancelled", usage=PAID)).ignored is Ignored.LATE


def test_a_hedge_that_is_accepted_after_the_end_is_cancelled() -> None:
    done = job.step(BEGUN, settled(LATER))
    late = job.step(done.state, accepted(LATER + 5, 2, TWIN))
    assert isinstance(late.outputs[0], ResponseClaimed)
    assert late.outputs[0].released is True


def test_an_incomplete_answer_ends_the_job_as_it_does_without_a_hedge() -> None:
    done = job.step(BOTH, settled(LATER, "incomplete", 2, TWIN, code="max_output_tokens"))
    assert result_of(done).outcome == "incomplete"
    assert result_of(done).hedge == told(won="hedge", ahead_ms=AT - T0)


def test_a_row_with_a_hedge_comes_back() -> None:
    for state in (BOTH, replace(BOTH, attempts=replace(BOTH.attempts, hedge=replace(HEDGED, spent=True)))):
        assert decode_job_state(encode_job_state(state)) == state


def test_briefs_name_both_attempts() -> None:
    done = job.step(BOTH, settled(LATER))
    assert result_of(done).attempts == (
        brief("completed"), AttemptBrief(attempt=2, outcome="running", response_id=TWIN),
    )  # fmt: skip


def test_a_reason_of_a_job_that_failed_with_a_hedge_is_that_of_its_last_attempt() -> None:
    one = job.step(replace(BOTH, spec=replace(BOTH.spec, policy=ONE_RETRY)), failed(LATER, 2, TWIN, usage=PAID))
    done = job.step(one.state, failed(LATER + 5, usage=PAID, code="other"))
    assert result_of(done).reason == Reason(code="other", message="(all 0 retries are used)")
    assert done.state == finished("failed", LATER + 5, RESP, TWIN)
    assert JOB in result_of(done).id
