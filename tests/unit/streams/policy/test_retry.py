"""When the next attempt begins: the wait of each cause, each budget at its edge, and the same at every refold."""

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import Cause
from schemas.jobs import JobPolicy
from streams.policy.retry import (
    ODD_TRIES_MAX,
    TOLD_JITTER,
    TOLD_JITTER_MS_MAX,
    GiveUp,
    Retry,
    RetryDecision,
    Spend,
    Spent,
    fraction,
    next_attempt,
    wait_ms,
)
from tests.support.builders import POLICY

EXAMPLES = settings(max_examples=200, deadline=None, database=None, derandomize=True)
NOW = 5_000_000
CAUSES = st.sampled_from(get_args(Cause))
HOUR_MS = 3_600_000

WAITS_OF_AN_OVERLOAD = [571, 2_700, 4_977, 26_718, 72_038, 107_343, 116_797, 40_106]


def policy(**changes: object) -> JobPolicy:
    return POLICY.model_copy(update=changes)


def spent(**changes: int) -> Spent:
    return Spent(**{"paid": 0, "unpaid": 0, "doubtful": 0, "refused": 0, "streak": 1, **changes})


def decide(
    spend: Spend, counted: Spent, cause: Cause = "faulty", told_ms: int = 0, of: JobPolicy = POLICY
) -> RetryDecision:
    return next_attempt(
        of, seed="job_1", now_ms=NOW, deadline_ms=NOW + 6 * HOUR_MS, cause=cause, told_ms=told_ms, spend=spend,
        spent=counted,
    )  # fmt: skip


@pytest.mark.parametrize("told_ms", [6 * HOUR_MS, 7 * 24 * HOUR_MS])
def test_a_told_wait_beyond_the_deadline_is_asked_about_again_in_time(told_ms: int) -> None:
    """A 429 that tells a year, once or each time: some refused creates, and the job lives until its deadline."""
    deadline_ms, at_ms, tries = NOW + 6 * HOUR_MS, NOW, 0
    while at_ms < deadline_ms:
        tries += 1
        decision = next_attempt(
            policy(rejections_max=100), seed="job_1", now_ms=at_ms, deadline_ms=deadline_ms, cause="limited",
            told_ms=told_ms, spend="refused", spent=spent(refused=tries, streak=tries),
        )  # fmt: skip
        assert isinstance(decision, Retry)
        left_ms = deadline_ms - at_ms
        assert decision.at_ms - at_ms >= min(left_ms // 2, POLICY.backoff_max_ms)
        assert decision.at_ms - at_ms <= max(left_ms // 2, POLICY.backoff_max_ms) + TOLD_JITTER_MS_MAX
        at_ms = decision.at_ms
    assert 5 <= tries <= 10


def test_a_told_wait_that_ends_before_the_deadline_is_kept() -> None:
    decision = decide("refused", spent(refused=1), "limited", 6 * HOUR_MS - 60_000)
    assert isinstance(decision, Retry)
    assert decision.at_ms >= NOW + 6 * HOUR_MS - 60_000


def test_the_second_half_of_the_doubts_is_spread_over_the_time_that_is_left() -> None:
    at_ms, waits_ms = NOW, list[int]()
    for used in range(1, 13):
        decision = next_attempt(
            POLICY.model_copy(update={"doubts_max": 12}), seed="job_1", now_ms=at_ms, deadline_ms=NOW + 6 * HOUR_MS,
            cause="faulty", told_ms=0, spend="doubtful", spent=spent(doubtful=used, streak=used),
        )  # fmt: skip
        assert isinstance(decision, Retry)
        waits_ms.append(decision.at_ms - at_ms)
        at_ms = decision.at_ms
    assert max(waits_ms[:6]) < 90_000
    assert all(wait_ms >= HOUR_MS // 20 for wait_ms in waits_ms[6:])
    assert NOW + 4 * HOUR_MS < at_ms < NOW + 6 * HOUR_MS


def test_the_waits_of_a_job_are_these_for_ever() -> None:
    """A change here makes a refold of recorded logs decide otherwise."""
    assert [wait_ms(POLICY, f"job_1/{nth}", "overloaded", 0, nth) for nth in range(1, 9)] == WAITS_OF_AN_OVERLOAD


@pytest.mark.parametrize(
    ("spend", "field", "limit"),
    [
        ("paid", "retries_max", 2),
        ("unpaid", "unpaid_ends_max", 100),
        ("doubtful", "doubts_max", 12),
        ("refused", "rejections_max", 3),
    ],
)
def test_the_last_one_that_is_granted_is_tried_and_the_next_is_not(spend: Spend, field: str, limit: int) -> None:
    assert getattr(POLICY, field) == limit
    assert isinstance(decide(spend, spent(**{spend: limit})), Retry)
    assert isinstance(decide(spend, spent(**{spend: limit + 1})), GiveUp)


@pytest.mark.parametrize("spend", ["unpaid", "doubtful", "refused"])
def test_free_ends_do_not_use_up_the_budget_of_paid_ones(spend: Spend) -> None:
    assert isinstance(decide(spend, spent(paid=99)), Retry)


def test_a_request_that_will_always_be_refused_is_not_retried() -> None:
    refused = GiveUp("the same request would be refused again", another_model=True)
    assert decide("refused", spent(refused=1), "never") == refused


def test_a_condition_of_the_account_waits_or_fails_as_the_policy_says() -> None:
    assert isinstance(decide("refused", spent(refused=1), "account"), Retry)
    assert isinstance(decide("refused", spent(refused=1), "account", of=policy(on_account="fail")), GiveUp)


def test_an_odd_refusal_is_retried_a_few_times() -> None:
    most = policy(rejections_max=10_000)
    assert isinstance(decide("refused", spent(streak=ODD_TRIES_MAX - 1), "odd", of=most), Retry)
    assert isinstance(decide("refused", spent(streak=ODD_TRIES_MAX), "odd", of=most), GiveUp)


def test_a_limit_that_names_no_time_waits_a_minute() -> None:
    assert POLICY.backoff_max_ms <= wait_ms(POLICY, "s", "limited", 0, 1) <= POLICY.backoff_max_ms * (1 + TOLD_JITTER)


@EXAMPLES
@given(cause=CAUSES, told_ms=st.integers(1, 7 * 86_400_000), streak=st.integers(0, 10_000), seed=st.text(max_size=9))
def test_the_time_that_the_answer_names_is_the_least_and_hardly_more_is_waited(
    cause: Cause, told_ms: int, streak: int, seed: str
) -> None:
    waited_ms = wait_ms(POLICY, seed, cause, told_ms, streak)
    assert told_ms <= waited_ms <= told_ms + TOLD_JITTER_MS_MAX


@EXAMPLES
@given(
    cause=CAUSES, streak=st.integers(0, 10**6), seed=st.text(max_size=9), base_ms=st.integers(0, 60_000),
    max_ms=st.integers(1, HOUR_MS)
)  # fmt: skip
def test_a_backoff_moves_time_on_and_has_an_end(
    cause: Cause, streak: int, seed: str, base_ms: int, max_ms: int
) -> None:
    of = policy(backoff_base_ms=base_ms, backoff_max_ms=max_ms)
    assert 1 <= wait_ms(of, seed, cause, 0, streak) <= 5 * max_ms


@pytest.mark.parametrize("cause", ["overloaded", "faulty"])
def test_an_outage_of_an_hour_costs_a_job_no_more_than_a_few_tries(cause: Cause) -> None:
    waited_ms, tries = 0, 0
    while waited_ms < HOUR_MS:
        tries += 1
        waited_ms += wait_ms(POLICY, f"job_1/{tries}", cause, 0, tries)
    assert 12 <= tries <= 45


def test_jobs_refused_together_do_not_come_back_together() -> None:
    drawn = [fraction(f"job_{number}/1") for number in range(1_000)]
    assert all(0 <= value < 1 for value in drawn)
    tenths = [sum(1 for value in drawn if int(value * 10) == tenth) for tenth in range(10)]
    assert min(tenths) > 60
    assert max(tenths) < 150
