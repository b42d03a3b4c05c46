"""The next poll that the scheduler stamps on timers: one poll in flight, and the next one after its report."""

from schemas.responses import ResponseFact, ResponseTimerFired
from streams.fold.batch import RESPONSE_FOLD
from streams.fold.response import CANCEL_AGAIN_MS, AbsentResponse, ResponseState, RunningResponse, due_ms, step
from streams.fold.rows import encode_response_state, encode_row
from streams.policy.polls import PollPolicy, Webhooks
from streams.scheduler.due import Due
from streams.scheduler.response_timers import response_timer
from tests.support.builders import RESP, T0, claimed, observed, poll_failed

POLICY = PollPolicy(first_poll_ms=3_000, spacing_min_ms=1_000, spacing_max_ms=5_000, report_ms=60_000)


def folded(*facts: ResponseFact) -> ResponseState:
    state: ResponseState = AbsentResponse()
    for fact in facts:
        state = step(state, fact).state
    return state


def timer(state: ResponseState) -> ResponseTimerFired:
    at_ms = due_ms(state)
    assert at_ms is not None
    row = encode_row(encode_response_state(state), 0)
    fired = response_timer(Webhooks(POLICY), Due(at_ms, RESP.encode(), 0), row, at_ms)
    assert isinstance(fired, ResponseTimerFired)
    assert RESPONSE_FOLD.due_ms(state) == fired.due_ms
    return fired


def test_a_poll_without_a_report_is_repeated_after_report_ms_and_not_by_the_schedule() -> None:
    state = folded(claimed(T0, poll_at_ms=T0 + 3_000, last_poll_at_ms=T0 + 3_600_000))
    first = timer(state)
    looking = step(state, first)
    assert len(looking.outputs) == 1
    assert due_ms(looking.state) == first.at_ms + POLICY.report_ms


def test_the_report_of_a_poll_sets_the_next_one_by_the_schedule() -> None:
    state = folded(claimed(T0, poll_at_ms=T0 + 3_000, last_poll_at_ms=T0 + 3_600_000))
    looking = step(state, timer(state)).state
    seen_ms = T0 + 3_200
    for word in (
        observed(seen_ms, "running", next_poll_at_ms=seen_ms + 1_500),
        poll_failed(seen_ms, next_poll_at_ms=seen_ms + 1_500),
    ):
        assert due_ms(step(looking, word).state) == seen_ms + 1_500


def test_a_response_whose_job_is_over_is_cancelled_less_and_less_often() -> None:
    deadline_ms = T0 + 20_000
    state = folded(claimed(T0, poll_at_ms=deadline_ms, last_poll_at_ms=deadline_ms))
    waits_ms = []
    for _ in range(7):
        state = step(state, timer(state)).state
        at_ms = due_ms(state)
        assert at_ms is not None
        waits_ms.append(at_ms - deadline_ms)
    assert waits_ms == sorted(waits_ms)
    assert waits_ms[-1] > 16 * CANCEL_AGAIN_MS


def test_the_last_poll_before_the_deadline_is_not_put_off() -> None:
    state = folded(claimed(T0, poll_at_ms=T0 + 3_000, last_poll_at_ms=T0 + 20_000))
    looking = step(state, timer(state)).state
    assert isinstance(looking, RunningResponse)
    assert looking.poll_at_ms == T0 + 20_000
