"""A lane: when it closes, who may try, and how it fills again. Given a lane, when something is met, then so."""

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.policy.lanes import (
    CANDIDATE_WAIT_MS,
    FAILURES_MAX,
    PROBE_ANSWER_MS_MAX,
    PROBE_WAIT_MS,
    PROBE_WAIT_MS_MAX,
    RAMP_FIRST,
    RAMP_MS,
    TOLD_WAIT_MS_MAX,
    Go,
    Held,
    Lane,
    Why,
    failed,
    release,
    send,
    succeeded,
)

T0 = 1_000_000
DOWN = Why("overloaded", "http_503", "no")
KEY = Why("account", "invalid_api_key", "no")
HOUR_MS = 3_600_000


def broken(at_ms: int = T0, why: Why = DOWN, told_ms: int = 0) -> Lane:
    lane = Lane()
    for _ in range(FAILURES_MAX):
        lane = failed(lane, at_ms, why, told_ms)
    return lane


def test_failures_in_a_row_close_a_lane_and_one_less_does_not() -> None:
    lane = Lane()
    for _ in range(FAILURES_MAX - 1):
        lane = failed(lane, T0, DOWN)
    assert send(lane, T0) == (lane, Go())
    assert send(failed(lane, T0, DOWN), T0)[1] == Held(T0 + PROBE_WAIT_MS, DOWN)


def test_a_success_between_failures_keeps_it_open() -> None:
    lane = Lane()
    for _ in range(50):
        lane = succeeded(failed(lane, T0, DOWN), T0)
    assert lane == Lane()


def test_a_condition_of_the_account_closes_it_at_once() -> None:
    assert send(failed(Lane(), T0, KEY), T0)[1] == Held(T0 + PROBE_WAIT_MS, KEY)


def test_what_is_wrong_with_one_request_closes_nothing() -> None:
    lane = Lane()
    for cause in ("never", "later", "odd") * 20:
        lane = failed(lane, T0, Why(cause, "x"))
    assert lane == Lane()


def test_one_probe_at_a_time_goes_out_and_the_waits_grow_to_a_minute() -> None:
    lane, now_ms, gaps = broken(), T0, []
    for _ in range(12):
        assert lane.closed is not None
        gaps.append(lane.closed.probe_at_ms - now_ms)
        now_ms = lane.closed.probe_at_ms
        assert isinstance(send(lane, now_ms - 1)[1], Held)
        lane, turn = send(lane, now_ms)
        assert turn == Go(probe=True)
        assert isinstance(send(lane, now_ms)[1], Held)
        lane = failed(lane, now_ms, DOWN)
    assert gaps == [PROBE_WAIT_MS * 2**n for n in range(6)] + [PROBE_WAIT_MS_MAX] * 6


def test_a_probe_that_nobody_heard_of_is_followed_by_another() -> None:
    lane, _ = send(broken(), T0 + PROBE_WAIT_MS)
    assert isinstance(send(lane, T0 + PROBE_WAIT_MS + PROBE_ANSWER_MS_MAX - 1)[1], Held)
    assert send(lane, T0 + PROBE_WAIT_MS + PROBE_ANSWER_MS_MAX)[1] == Go(probe=True)


def test_a_told_time_is_waited_for_within_a_bound() -> None:
    assert send(broken(told_ms=90_000), T0)[1] == Held(T0 + 90_000, DOWN)
    assert send(broken(told_ms=HOUR_MS), T0)[1] == Held(T0 + TOLD_WAIT_MS_MAX, DOWN)


def test_an_answer_to_what_was_sent_before_it_closed_puts_no_probe_forward() -> None:
    lane = broken(told_ms=90_000)
    late = failed(lane, T0 + 5, DOWN)
    assert late.closed is not None
    assert late.closed.probe_at_ms == T0 + 90_000
    assert late.closed.probes == 0


def test_a_probe_refused_for_what_is_in_it_opens_the_lane() -> None:
    probing, _ = send(broken(why=KEY), T0 + PROBE_WAIT_MS)
    assert failed(probing, T0 + 2_000, Why("never", "invalid_value")).closed is None


def test_a_probe_that_says_nothing_lets_the_next_one_try() -> None:
    probing, _ = send(broken(), T0 + PROBE_WAIT_MS)
    again = failed(probing, T0 + 2_000, Why("odd", "http_400"))
    assert send(again, T0 + 2_000)[1] == Go(probe=True)


def test_one_waiting_job_is_let_through_for_a_probe() -> None:
    lane = broken()
    assert release(lane, T0) == (lane, PROBE_WAIT_MS)
    let, wait_ms = release(lane, T0 + PROBE_WAIT_MS)
    assert wait_ms == 0
    assert release(let, T0 + PROBE_WAIT_MS)[1] == CANDIDATE_WAIT_MS


def test_what_waits_begins_along_a_ramp_and_ten_thousand_within_a_minute() -> None:
    lane, begun, after_ms = succeeded(broken(), T0), 0, 0
    first = 0
    while begun < 10_000:
        lane, wait_ms = release(lane, T0 + after_ms)
        begun += wait_ms == 0
        after_ms += wait_ms
        first = begun if after_ms == 0 else first
    assert first == RAMP_FIRST
    assert 20_000 < after_ms < RAMP_MS
    assert release(lane, T0 + RAMP_MS) == (Lane(), 0)


def test_a_lane_that_closes_again_soon_goes_on_with_longer_waits() -> None:
    lane = broken()
    for _ in range(3):
        assert lane.closed is not None
        lane, _ = send(lane, lane.closed.probe_at_ms)
        lane = failed(lane, T0 + 60_000, DOWN)
    assert lane.closed is not None
    opened = succeeded(lane, T0 + 90_000)
    soon = failed(opened, T0 + 91_000, KEY)
    assert soon.closed is not None
    assert soon.closed.probe_at_ms - (T0 + 91_000) == PROBE_WAIT_MS * 8


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(
    st.lists(st.sampled_from(["send", "release", "ok", "down", "key", "never", "odd", "second", "minute"]), max_size=60)
)
def test_a_lane_is_never_closed_for_ever_nor_open_to_two_probes(steps: list[str]) -> None:
    lane, now_ms, probes_out = Lane(), T0, 0
    for step in steps:
        now_ms += {"second": 1_000, "minute": 60_000}.get(step, 0)
        match step:
            case "send":
                lane, turn = send(lane, now_ms)
                probing = lane.closed is not None and lane.closed.probing_since_ms == now_ms
                probes_out += isinstance(turn, Go) and turn.probe
                assert not (isinstance(turn, Go) and turn.probe) or probing
            case "release":
                lane, wait_ms = release(lane, now_ms)
                assert 0 <= wait_ms <= TOLD_WAIT_MS_MAX
            case "ok":
                lane = succeeded(lane, now_ms)
            case "down" | "key":
                lane = failed(lane, now_ms, DOWN if step == "down" else KEY)
            case "never" | "odd":
                lane = failed(lane, now_ms, Why("never" if step == "never" else "odd", "x"))
            case _:
                pass
        later_ms = now_ms + PROBE_ANSWER_MS_MAX + TOLD_WAIT_MS_MAX
        assert isinstance(send(lane, later_ms)[1], Go)
