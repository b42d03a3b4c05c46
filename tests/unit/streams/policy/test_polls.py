"""The fixed schedule of polls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.policy.polls import PollPolicy, hint_wait_ms, next_poll_at_ms, overtaken

POLICY = PollPolicy()
ACCEPTED_MS = 1_795_341_600_000


def wait_ms(age_ms: int, *, response_id: str = "resp_1", polls: int = 0, since_hint: int | None = None) -> int:
    now_ms = ACCEPTED_MS + age_ms
    at_ms = next_poll_at_ms(
        POLICY, response_id=response_id, accepted_at_ms=ACCEPTED_MS, now_ms=now_ms, polls=polls, since_hint=since_hint
    )
    return at_ms - now_ms


@pytest.mark.parametrize(
    ("age_ms", "about_ms"),
    [
        (0, 20_000), (5_000, 15_000), (19_000, 5_000), (20_000, 10_000), (60_000, 30_000), (400_000, 200_000),
        (480_000, 240_000), (86_400_000, 240_000),
    ],
)  # fmt: skip
def test_the_wait_grows_with_the_age(age_ms: int, about_ms: int) -> None:
    assert 0.9 * about_ms - 1 <= wait_ms(age_ms) <= 1.1 * about_ms


def test_the_least_wait_between_polls_holds() -> None:
    policy = PollPolicy(first_poll_ms=1_000, spacing_factor=0.1)
    at_ms = next_poll_at_ms(policy, response_id="r", accepted_at_ms=0, now_ms=2_000, polls=1)
    assert 4_500 <= at_ms - 2_000 <= 5_500


def test_the_jitter_is_the_same_for_the_same_question_and_spreads_over_the_others() -> None:
    assert wait_ms(60_000, polls=3) == wait_ms(60_000, polls=3)
    waits = [wait_ms(60_000, response_id=f"resp_{number}") for number in range(1_000)]
    assert min(waits) < 27_200
    assert max(waits) > 32_800
    assert 29_700 < sum(waits) / len(waits) < 30_300
    assert len({wait_ms(60_000, polls=number) for number in range(100)}) > 90


@pytest.mark.parametrize(("since_hint", "about_ms"), [(0, 1_000), (1, 2_000), (2, 4_000), (3, 8_000), (6, 30_000)])
def test_after_an_early_webhook_polls_come_sooner_until_the_schedule_is_sooner(since_hint: int, about_ms: int) -> None:
    assert 0.9 * about_ms - 1 <= wait_ms(60_000, since_hint=since_hint) <= 1.1 * about_ms


def test_a_hint_does_not_make_an_early_poll_later() -> None:
    assert wait_ms(100, since_hint=0) <= 1_100
    assert wait_ms(60_000, since_hint=60) <= wait_ms(60_000)


def test_an_unknown_acceptance_is_taken_as_young() -> None:
    at_ms = next_poll_at_ms(POLICY, response_id="r", accepted_at_ms=None, now_ms=ACCEPTED_MS, polls=0)
    assert 9_000 <= at_ms - ACCEPTED_MS <= 11_000


@given(
    st.text(max_size=20), st.none() | st.integers(-(10**15), 10**15), st.integers(0, 10**15),
    st.integers(0, 10**6), st.none() | st.integers(-5, 10**6),
)  # fmt: skip
def test_the_next_poll_lies_ahead_and_within_the_bounds(
    response_id: str, accepted_at_ms: int | None, now_ms: int, polls: int, since_hint: int | None
) -> None:
    at_ms = next_poll_at_ms(
        POLICY,
        response_id=response_id,
        accepted_at_ms=accepted_at_ms,
        now_ms=now_ms,
        polls=polls,
        since_hint=since_hint,
    )
    assert 0 < at_ms - now_ms <= 1.1 * POLICY.spacing_max_ms


def test_the_hint_waits_double_and_stay_bounded() -> None:
    assert [hint_wait_ms(number) for number in range(4)] == [1_000, 2_000, 4_000, 8_000]
    assert hint_wait_ms(10**9) == hint_wait_ms(16)


@pytest.mark.parametrize(
    "bad",
    [
        {"spacing_min_ms": 0}, {"spacing_min_ms": 2, "spacing_max_ms": 1}, {"first_poll_ms": -1},
        {"spacing_factor": 0}, {"spacing_factor": 11},
    ],
)  # fmt: skip
def test_a_policy_that_contradicts_itself_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="polls: "):
        PollPolicy(**bad)


def test_a_poll_is_worth_making_until_the_schedule_has_asked_again() -> None:
    policy = PollPolicy(report_ms=10_000)
    assert not overtaken(policy, asked_at_ms=5_000, now_ms=15_000)
    assert overtaken(policy, asked_at_ms=5_000, now_ms=15_001)
