"""When the next attempt begins: at the edges of both budgets, and the same at every refold."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.jobs import JobPolicy
from streams.policy.retry import JITTER, GiveUp, Retry, after_rejection, after_spend, backoff_ms, fraction
from tests.support.builders import POLICY

EXAMPLES = settings(max_examples=200, deadline=None, database=None, derandomize=True)
NOW = 5_000_000


def policy(**changes: int) -> JobPolicy:
    return POLICY.model_copy(update=changes)


def test_the_waits_of_a_job_are_these_for_ever() -> None:
    """A change here makes a refold of recorded logs decide otherwise: it needs a new version of the policy."""
    waits = [backoff_ms(POLICY, "job_1", nth) for nth in range(1, 9)]
    assert waits == [557, 1_270, 2_498, 6_672, 15_204, 26_734, 41_680, 34_011]


def test_a_retry_is_granted_while_some_are_left() -> None:
    assert after_spend(POLICY, "job_1", NOW, 0) == Retry(NOW + 557)
    assert after_spend(POLICY, "job_1", NOW, 1) == Retry(NOW + 1_270)


def test_a_retry_is_not_granted_when_all_are_used() -> None:
    assert after_spend(POLICY, "job_1", NOW, 2) == GiveUp("all 2 retries are used")


@pytest.mark.parametrize("used", [0, 1, 7])
def test_a_job_without_retries_has_none(used: int) -> None:
    assert after_spend(policy(retries_max=0), "job_1", NOW, used) == GiveUp("all 0 retries are used")


def test_the_last_granted_rejection_is_repeated_and_the_one_after_is_not() -> None:
    assert after_rejection(POLICY, "job_1", NOW, 3, 0) == Retry(NOW + 2_498)
    assert after_rejection(POLICY, "job_1", NOW, 4, 0) == GiveUp("refused 4 times; rejections_max is 3")


def test_a_job_that_grants_no_rejection_gives_up_at_the_first() -> None:
    assert after_rejection(policy(rejections_max=0), "job_1", NOW, 1, 0) == GiveUp(
        "refused 1 times; rejections_max is 0"
    )


def test_the_answers_own_wait_is_the_least() -> None:
    assert after_rejection(POLICY, "job_1", NOW, 1, 556) == Retry(NOW + 557)
    assert after_rejection(POLICY, "job_1", NOW, 1, 558) == Retry(NOW + 558)
    assert after_rejection(POLICY, "job_1", NOW, 1, 200_000) == Retry(NOW + 200_000)


def test_the_hundredth_repeat_waits_no_longer_than_the_maximum_and_costs_no_long_integer() -> None:
    assert POLICY.backoff_max_ms * JITTER < backoff_ms(POLICY, "job_1", 10**6) <= POLICY.backoff_max_ms


def test_even_a_base_of_nothing_moves_time_on() -> None:
    assert backoff_ms(policy(backoff_base_ms=0), "job_1", 1) == 1


@EXAMPLES
@given(
    seed=st.text(max_size=20),
    nth=st.integers(1, 100),
    base_ms=st.integers(1, 100_000),
    max_ms=st.integers(1, 10_000_000),
)
def test_a_wait_stands_between_the_half_and_the_whole_of_the_exponential_one(
    seed: str, nth: int, base_ms: int, max_ms: int
) -> None:
    full_ms = min(max_ms, base_ms * 2 ** (nth - 1))
    wait_ms = backoff_ms(policy(backoff_base_ms=base_ms, backoff_max_ms=max_ms), seed, nth)
    assert max(1, full_ms * (1 - JITTER) - 1) <= wait_ms <= max(1, full_ms)


def test_jobs_refused_together_do_not_come_back_together() -> None:
    drawn = [fraction(f"job_{number}/1") for number in range(1_000)]
    assert all(0 <= value < 1 for value in drawn)
    tenths = [sum(1 for value in drawn if int(value * 10) == tenth) for tenth in range(10)]
    assert min(tenths) > 60
    assert max(tenths) < 150
