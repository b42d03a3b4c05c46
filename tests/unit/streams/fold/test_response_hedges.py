"""Hedges in the fold of a response: when it asks for a permission, and passes it on."""

from dataclasses import replace
from typing import Any

import pytest

from schemas.hedges import HedgeTerms
from schemas.jobs import HedgePermitted
from streams.fold import response
from streams.fold.response_hedges import PERMIT_VALID_MS
from streams.fold.response_states import Hedge
from streams.fold.rows import decode_response_state, encode_response_state
from streams.fold.step import Ignored, Step
from tests.support.builders import (
    DEADLINE,
    MODEL,
    PERMIT,
    RESP,
    T0,
    claimed,
    hedge_permitted,
    observed,
    poll_failed,
    released,
    response_timer,
)
from tests.unit.streams.fold.states import (
    CLAIM_AT,
    cancel,
    claim,
    poll,
)

ASK_AT = T0 + 190_000
RUNNING = response.RunningResponse(claim(), CLAIM_AT + 200_000, hedge=Hedge(MODEL, ASK_AT))
PERMITTED = replace(RUNNING, polls=1, hedge=Hedge(MODEL, None, PERMIT, ASK_AT + 20))
PASSED_ON = hedge_permitted(ASK_AT + 500, id=f"{RESP}/hedge/{ASK_AT + 20}")


def test_a_claim_with_terms_asks_at_its_time() -> None:
    state = response.step(
        response.AbsentResponse(), claimed(CLAIM_AT, hedge=HedgeTerms(model=MODEL, at_ms=CLAIM_AT + 9))
    ).state
    assert isinstance(state, response.RunningResponse)
    assert state.hedge == Hedge(MODEL, CLAIM_AT + 9)
    assert response.due_ms(state) == CLAIM_AT + 9


def test_without_a_time_the_poll_is_due_and_its_timer_sets_one() -> None:
    unknown_yet = replace(RUNNING, hedge=Hedge(MODEL, None))
    assert response.due_ms(unknown_yet) == RUNNING.poll_at_ms
    polled = response.step(unknown_yet, response_timer(RUNNING.poll_at_ms, hedge_at_ms=RUNNING.poll_at_ms + 7))
    assert isinstance(polled.state, response.RunningResponse)
    assert polled.state.hedge == Hedge(MODEL, RUNNING.poll_at_ms + 7)
    assert len(polled.outputs) == 1


def test_a_permission_makes_a_poll_and_leaves_the_schedule_alone() -> None:
    done = response.step(RUNNING, response_timer(ASK_AT, ASK_AT + 20, permit=PERMIT))
    assert done == Step(PERMITTED, (poll(ASK_AT + 20, f"{RESP}/timer/{ASK_AT}", "timer"),))


def test_the_timer_of_a_poll_may_have_the_permission_too() -> None:
    due = RUNNING.poll_at_ms
    done = response.step(replace(RUNNING, hedge=Hedge(MODEL, due + 5)), response_timer(due, permit=PERMIT))
    assert isinstance(done.state, response.RunningResponse)
    assert done.state.hedge == Hedge(MODEL, None, PERMIT, due)
    assert len(done.outputs) == 1


@pytest.mark.parametrize("later_ms", [None, -5, 5_000])
def test_a_timer_without_a_permission_asks_again_later_or_not_at_all(later_ms: int | None) -> None:
    stamp = {} if later_ms is None else {"hedge_at_ms": ASK_AT + later_ms}
    done = response.step(RUNNING, response_timer(ASK_AT, **stamp))  # type: ignore[arg-type]
    expected = None if later_ms is None else ASK_AT + max(later_ms, 1)
    assert done == Step(replace(RUNNING, hedge=Hedge(MODEL, expected)))


def test_an_older_timer_is_stale() -> None:
    assert response.step(RUNNING, response_timer(ASK_AT - 1, permit=PERMIT)).ignored is Ignored.STALE
    assert response.step(PERMITTED, response_timer(ASK_AT, permit=PERMIT)).ignored is Ignored.STALE


def test_an_observation_of_a_response_that_runs_passes_the_permission_on_once() -> None:
    running = observed(ASK_AT + 500, "running", raw_status="in_progress", next_poll_at_ms=DEADLINE)
    done = response.step(PERMITTED, running)
    assert done.outputs == (PASSED_ON,)
    assert isinstance(done.state, response.RunningResponse)
    assert done.state.hedge is None
    assert response.step(done.state, running).outputs == ()


@pytest.mark.parametrize(
    "event",
    [
        observed(ASK_AT + 10, "running", raw_status="queued"),
        observed(ASK_AT + 500, "missing"),
        observed(ASK_AT + 500, "odd", raw_status="paused"),
        poll_failed(ASK_AT + 500),
    ],
    ids=["from before the permission", "missing", "odd", "failed"],
)
def test_other_observations_do_not(event: Any) -> None:
    done = response.step(PERMITTED, event)
    assert not any(isinstance(output, HedgePermitted) for output in done.outputs)
    assert isinstance(done.state, response.RunningResponse)
    assert done.state.hedge == PERMITTED.hedge


def test_an_end_settles_and_no_hedge_follows() -> None:
    done = response.step(PERMITTED, observed(ASK_AT + 500))
    assert [type(output).__name__ for output in done.outputs] == ["AttemptSettled"]


def test_a_permission_lapses() -> None:
    late_ms = ASK_AT + 20 + PERMIT_VALID_MS + 1
    done = response.step(PERMITTED, observed(late_ms, "running", raw_status="queued"))
    assert isinstance(done.state, response.RunningResponse)
    assert (done.state.hedge, done.outputs) == (Hedge(MODEL, None), ())


def test_a_released_response_is_not_hedged() -> None:
    for state in (RUNNING, PERMITTED):
        done = response.step(state, released(ASK_AT + 100))
        assert isinstance(done.state, response.RunningResponse)
        assert done.state.hedge is None
        assert done.outputs == (cancel(ASK_AT + 100, f"{RESP}/cancel"),)


def test_a_stuck_or_missing_response_is_not_hedged() -> None:
    for told_before in ("stuck", "missing"):
        state = replace(PERMITTED, sight=response.SeenSoFar("queued", CLAIM_AT, told=told_before))
        done = response.step(state, observed(ASK_AT + 500, "running", raw_status="queued"))
        assert not any(isinstance(output, HedgePermitted) for output in done.outputs)


def test_no_hedge_is_asked_for_after_the_deadline() -> None:
    late = replace(RUNNING, poll_at_ms=DEADLINE + 9, hedge=Hedge(MODEL, DEADLINE))
    done = response.step(late, response_timer(DEADLINE, permit=PERMIT))
    assert done == Step(replace(late, hedge=None))


def test_a_row_of_a_response_with_a_hedge_comes_back() -> None:
    for state in (RUNNING, PERMITTED):
        assert decode_response_state(encode_response_state(state)) == state
