"""A lane: when it closes, which create may probe it, and how it fills again."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import Cause
from schemas.lanes import CreateFailed, CreateServed, ProbeClaimed
from streams.policy.lanes import (
    CANDIDATE_SPREAD_MS,
    CANDIDATE_WAIT_MS,
    ENDS_MAX,
    FAILURES_MAX,
    HELD_MS,
    PROBE_ANSWER_MS_MAX,
    PROBE_WAIT_MS,
    PROBE_WAIT_MS_MAX,
    RAMP_FIRST,
    RAMP_MS,
    RUN_MAX,
    TOLD_WAIT_MS_MAX,
    Claim,
    Go,
    Held,
    Lane,
    ReleaseProgress,
    Share,
    Why,
    granted,
    release,
    send,
    share_of,
    take,
)

T0 = 1_000_000
DOWN: Cause = "overloaded"
KEY: Cause = "account"
HOUR_MS = 3_600_000


def failed(lane: Lane, at_ms: int, cause: Cause = DOWN, told_ms: int = 0, command_id: str = "c") -> Lane:
    fact = CreateFailed(
        id="f", at_ms=1, account="0" * 8, model="m", turn=lane.turn, command_id=command_id, cause=cause, code="x",
        message="no", told_ms=told_ms,
    )  # fmt: skip
    return take(lane, fact, at_ms)


def served(lane: Lane, at_ms: int) -> Lane:
    return take(lane, CreateServed(id="s", at_ms=1, account="0" * 8, model="m", turn=lane.turn), at_ms)


def claimed(lane: Lane, at_ms: int, turn: int, command_id: str = "p", answer_ms: int | None = None) -> Lane:
    fact = ProbeClaimed(
        id="p", at_ms=1, account="0" * 8, model="m", turn=turn, command_id=command_id, answer_ms=answer_ms
    )  # fmt: skip
    return take(lane, fact, at_ms)


def broken(at_ms: int = T0, cause: Cause = DOWN, told_ms: int = 0) -> Lane:
    lane = Lane()
    for _ in range(FAILURES_MAX):
        lane = failed(lane, at_ms, cause, told_ms)
    return lane


def probing(lane: Lane, at_ms: int) -> Lane:
    """`p` has the turn."""
    turn = send(lane, at_ms)
    assert isinstance(turn, Claim)
    lane = claimed(lane, at_ms, turn.turn)
    assert granted(lane, "p", at_ms) == Go(probe=True)
    return lane


def test_failures_in_a_row_close_a_lane_and_one_less_does_not() -> None:
    lane = Lane()
    for _ in range(FAILURES_MAX - 1):
        lane = failed(lane, T0)
    assert send(lane, T0) == Go()
    assert send(failed(lane, T0), T0) == Held(T0 + PROBE_WAIT_MS, Why(DOWN, "x", "no"))


def test_a_success_between_failures_keeps_it_open() -> None:
    lane = Lane()
    for _ in range(50):
        lane = served(failed(lane, T0), T0)
    assert lane == Lane()


def test_a_condition_of_the_account_closes_it_at_once() -> None:
    assert send(failed(Lane(), T0, KEY), T0) == Held(T0 + PROBE_WAIT_MS, Why(KEY, "x", "no"))


def test_one_response_that_ends_with_a_condition_of_the_account_closes_no_lane_and_three_in_a_minute_do() -> None:
    lane = Lane()
    for number in range(6):
        lane = served(failed(lane, T0 + number * 31_000, KEY, command_id=""), T0 + number * 31_000)
        assert lane.closed is None
    late_ms = T0 + HOUR_MS
    for _ in range(ENDS_MAX - 1):
        lane = served(failed(lane, late_ms, KEY, command_id=""), late_ms)
        assert lane.closed is None
    assert failed(lane, late_ms, KEY, command_id="").closed is not None


def test_a_fault_of_one_request_closes_no_lane() -> None:
    lane = Lane()
    causes: tuple[Cause, ...] = ("never", "later", "odd")
    for cause in causes * 20:
        lane = failed(lane, T0, cause)
    assert lane == Lane()


def closings(share: float, creates: int, seed: int) -> tuple[int, Lane]:
    """How often a lane closes where each create fails by chance, and each probe succeeds."""
    chance, lane, count = Random(seed), Lane(), 0
    for _ in range(creates):
        lane = failed(lane, T0) if chance.random() < share else served(lane, T0)
        if lane.closed is not None:
            count += 1
            lane = replace(served(lane, T0), opened_at_ms=None)
    return count, lane


@pytest.mark.parametrize("share", [0.05, 0.2, 0.35, 0.5])
def test_creates_that_fail_by_chance_seldom_close_a_lane(share: float) -> None:
    count, lane = closings(share, 20_000, seed=3)
    assert count <= 20_000 * 0.003
    assert lane.failures_max <= 14


def test_a_lane_that_served_well_closes_at_the_fifth_failure_again() -> None:
    _, lane = closings(0.5, 1_000, seed=4)
    assert lane.failures_max > FAILURES_MAX
    for _ in range(60):
        lane = served(failed(lane, T0), T0)
    assert lane.failures_max == FAILURES_MAX


def test_no_history_keeps_a_lane_open_through_an_outage() -> None:
    lane = Lane()
    for length in range(1, 60):
        for _ in range(min(length, lane.failures_max - 1)):
            lane = failed(lane, T0)
        lane = served(lane, T0)
    for _ in range(RUN_MAX):
        lane = failed(lane, T0)
    assert lane.closed is not None


def test_the_waits_between_probes_double_to_a_minute_and_the_first_minute_has_three() -> None:
    lane, now_ms, gaps = broken(), T0, []
    for _ in range(6):
        assert lane.closed is not None
        gaps.append(lane.closed.probe_at_ms - now_ms)
        now_ms = lane.closed.probe_at_ms
        assert isinstance(send(lane, now_ms - 1), Held)
        lane = probing(lane, now_ms)
        assert isinstance(send(lane, now_ms), Held)
        lane = failed(lane, now_ms, command_id="p")
    assert gaps == [4_000, 8_000, 16_000, 32_000] + [PROBE_WAIT_MS_MAX] * 2


def test_of_two_claims_for_one_turn_the_first_in_the_log_has_it() -> None:
    lane, at_ms = broken(), T0 + PROBE_WAIT_MS
    lane = claimed(claimed(lane, at_ms, 1, "first"), at_ms, 1, "second")
    assert granted(lane, "first", at_ms) == Go(probe=True)
    assert granted(lane, "second", at_ms) == Held(at_ms + HELD_MS, Why(DOWN, "x", "no"))


def test_a_claim_that_comes_after_the_lane_has_opened_closes_nothing() -> None:
    opened = served(broken(), T0)
    assert claimed(opened, T0, 1).closed is None


def test_a_turn_that_was_ever_claimed_is_not_claimed_again() -> None:
    again = failed(failed(served(probing(broken(), T0 + PROBE_WAIT_MS), T0), T0, KEY), T0, KEY)
    assert again.closed is not None
    assert send(again, again.closed.probe_at_ms) == Claim(2)


def test_a_probe_without_an_outcome_is_followed_by_another() -> None:
    lane = probing(broken(), T0 + PROBE_WAIT_MS)
    assert isinstance(send(lane, T0 + PROBE_WAIT_MS + PROBE_ANSWER_MS_MAX - 1), Held)
    assert send(lane, T0 + PROBE_WAIT_MS + PROBE_ANSWER_MS_MAX) == Claim(2)


def test_a_probe_whose_worker_died_is_followed_soon_after_its_timeout() -> None:
    at_ms, answer_ms = T0 + PROBE_WAIT_MS, 8_000
    lane = claimed(broken(), at_ms, 1, answer_ms=answer_ms)
    assert isinstance(send(lane, at_ms + answer_ms - 1), Held)
    assert send(lane, at_ms + answer_ms) == Claim(2)
    patient = claimed(broken(), at_ms, 1, answer_ms=HOUR_MS)
    assert send(patient, at_ms + PROBE_ANSWER_MS_MAX) == Claim(2)


def test_the_wait_that_the_provider_asks_for_is_bounded() -> None:
    assert send(broken(told_ms=90_000), T0) == Held(T0 + 90_000, Why(DOWN, "x", "no"))
    assert send(broken(told_ms=HOUR_MS), T0) == Held(T0 + TOLD_WAIT_MS_MAX, Why(DOWN, "x", "no"))


def test_an_answer_to_a_create_sent_before_the_closing_never_advances_a_probe() -> None:
    lane = broken(told_ms=90_000)
    assert failed(lane, T0 + 5) == lane
    assert failed(probing(lane, T0 + 90_000), T0 + 90_001, command_id="an older one").closed is not None
    late = failed(lane, T0 + 5, told_ms=120_000)
    assert late.closed is not None
    assert (late.closed.probe_at_ms, late.closed.probes) == (T0 + 5 + 120_000, 0)


def test_a_probe_refused_for_its_content_opens_the_lane() -> None:
    lane = probing(broken(cause=KEY), T0 + PROBE_WAIT_MS)
    assert failed(lane, T0 + 5_000, "never", command_id="p").closed is None


def test_a_probe_that_says_nothing_is_followed_by_the_next_one_after_the_same_wait() -> None:
    at_ms = T0 + PROBE_WAIT_MS
    again = failed(probing(broken(), at_ms), at_ms, "odd", command_id="p")
    assert isinstance(send(again, at_ms + PROBE_WAIT_MS - 1), Held)
    assert send(again, at_ms + PROBE_WAIT_MS) == Claim(2)


def test_one_waiting_job_is_let_through_for_a_probe() -> None:
    lane = broken()
    assert release(lane, ReleaseProgress(), T0) == (ReleaseProgress(), PROBE_WAIT_MS)
    progress, wait_ms = release(lane, ReleaseProgress(), T0 + PROBE_WAIT_MS)
    assert wait_ms == 0
    assert release(lane, progress, T0 + PROBE_WAIT_MS)[1] == CANDIDATE_WAIT_MS


def test_no_waiting_job_is_let_through_while_a_probe_is_out() -> None:
    at_ms = T0 + PROBE_WAIT_MS
    lane = probing(broken(), at_ms)
    assert release(lane, ReleaseProgress(), at_ms)[1] == PROBE_ANSWER_MS_MAX
    assert release(lane, ReleaseProgress(), at_ms + PROBE_ANSWER_MS_MAX)[1] == 0


def test_workers_let_their_candidates_through_one_after_the_other() -> None:
    lane = broken()
    waits_ms = [
        release(lane, ReleaseProgress(), T0, share_of(owned, 4))[1] - PROBE_WAIT_MS for owned in ({0, 3}, {1}, {2})
    ]
    assert waits_ms == [0, CANDIDATE_SPREAD_MS // 4, CANDIDATE_SPREAD_MS // 2]


def begun_at(after_ms: int, share: Share) -> int:
    lane, progress, begun = served(broken(), T0), ReleaseProgress(), 0
    while True:
        progress, wait_ms = release(lane, progress, T0 + after_ms, share)
        if wait_ms:
            return begun
        begun += 1


def test_waiting_jobs_begin_along_a_ramp_and_ten_thousand_within_a_minute() -> None:
    lane, progress, begun, after_ms = served(broken(), T0), ReleaseProgress(), 0, 0
    first = 0
    while begun < 10_000:
        progress, wait_ms = release(lane, progress, T0 + after_ms)
        begun += wait_ms == 0
        after_ms += wait_ms
        first = begun if after_ms == 0 else first
    assert first == RAMP_FIRST
    assert 20_000 < after_ms < RAMP_MS
    assert release(lane, progress, T0 + RAMP_MS) == (ReleaseProgress(), 0)


def test_workers_together_ramp_as_one_would() -> None:
    shares = [share_of(owned, 16) for owned in (range(8), range(8, 12), range(12, 16))]
    for after_ms in (0, 6_000, 20_000):
        assert abs(sum(begun_at(after_ms, share) for share in shares) - begun_at(after_ms, Share())) <= len(shares)


def test_a_lane_that_closes_again_soon_goes_on_with_longer_waits() -> None:
    lane = broken()
    assert lane.closed is not None
    lane = failed(probing(lane, lane.closed.probe_at_ms), T0 + 60_000, command_id="p")
    soon = failed(served(lane, T0 + 90_000), T0 + 91_000, KEY)
    assert soon.closed is not None
    assert soon.closed.probe_at_ms - (T0 + 91_000) == 2 * PROBE_WAIT_MS


def test_the_writers_clock_decides_nothing() -> None:
    for at_ms in (1, 2**48):
        lane = Lane()
        for _ in range(FAILURES_MAX):
            fact = CreateFailed(id="f", at_ms=at_ms, account="0" * 8, model="m", cause=DOWN)
            lane = take(lane, fact, T0)
        assert send(lane, T0 + PROBE_WAIT_MS) == Claim(1)


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(
    st.lists(
        st.sampled_from(["claim", "release", "ok", "down", "key", "never", "odd", "probe down", "second", "minute"]),
        max_size=60,
    )
)
def test_a_lane_is_never_closed_for_ever(steps: list[str]) -> None:
    lane, progress, now_ms = Lane(), ReleaseProgress(), T0
    causes: dict[str, Cause] = {"down": DOWN, "key": KEY, "never": "never", "odd": "odd", "probe down": DOWN}
    for step in steps:
        now_ms += {"second": 1_000, "minute": 60_000}.get(step, 0)
        match step:
            case "claim":
                turn = send(lane, now_ms)
                lane = claimed(lane, now_ms, turn.turn) if isinstance(turn, Claim) else lane
            case "release":
                progress, wait_ms = release(lane, progress, now_ms)
                assert 0 <= wait_ms <= TOLD_WAIT_MS_MAX
            case "ok":
                lane = served(lane, now_ms)
            case "second" | "minute":
                pass
            case _:
                lane = failed(lane, now_ms, causes[step], command_id="p" if step == "probe down" else "c")
        later_ms = now_ms + PROBE_ANSWER_MS_MAX + TOLD_WAIT_MS_MAX
        assert not isinstance(send(lane, later_ms), Held)
