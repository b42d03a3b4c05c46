"""What the provider tells of its limits, and what is found out where it tells nothing."""

import pytest

from streams.policy.lending import LentShare
from streams.policy.limiter import (
    DOUBLES_IN_MS,
    FIRST_TOKENS_PER_MIN,
    SLOW_ABOVE,
    STALE_MS,
    TOLD_FOR_MS,
    Limiter,
)
from streams.policy.rates import LimitsTold, Rates

DISCOVER = Rates(discover=True)


def serve(limiter: Limiter, since_ms: int, until_ms: int, share: float = 1.0) -> None:
    """Use `share` of the known rate, by one job every 100 ms."""
    for now_ms in range(since_ms, until_ms, 100):
        tokens = (limiter.tokens_per_min or 0.0) * share / 600
        limiter.take(tokens, now_ms)
        limiter.answered(tokens, now_ms)


@pytest.mark.parametrize(
    ("rates", "told", "tokens_per_min"),
    [
        (Rates(tokens_per_min=100), LimitsTold(tokens_per_min=60), 60),
        (Rates(tokens_per_min=100), LimitsTold(tokens_per_min=1_000), 100),
        (Rates(tokens_per_min=100), LimitsTold(requests_per_min=5), 100),
        (Rates(concurrent=4), LimitsTold(tokens_per_min=60), 60),
        (DISCOVER, LimitsTold(tokens_per_min=60), 60),
        (DISCOVER, LimitsTold(requests_per_min=5), FIRST_TOKENS_PER_MIN),
    ],
)
def test_the_lower_of_what_is_set_and_told_counts(rates: Rates, told: LimitsTold, tokens_per_min: float) -> None:
    limiter = Limiter(rates, 0)
    limiter.told(told, 1_000)
    assert limiter.tokens_per_min == tokens_per_min


def test_a_limit_that_is_told_anew_counts_at_once_in_both_directions() -> None:
    limiter = Limiter(DISCOVER, 0)
    for tokens in (1_000, 500, 8_000):
        limiter.told(LimitsTold(tokens_per_min=tokens), 1_000)
        assert limiter.tokens_per_min == tokens


def test_what_is_left_counts_less_what_is_on_its_way() -> None:
    limiter = Limiter(Rates(tokens_per_min=60_000), 0, share=0.5)
    assert limiter.wait(1_000, 3_000) is None
    limiter.take(400, 3_000)
    limiter.told(LimitsTold(tokens_left=1_800), 3_000)
    assert limiter.wait(500, 3_000) is None
    wait = limiter.wait(600, 3_000)
    assert wait is not None
    assert (wait.reason, wait.ms) == ("tokens_per_min", 201)


def test_what_was_left_long_ago_is_not_believed() -> None:
    limiter = Limiter(Rates(tokens_per_min=60_000), 0)
    limiter.told(LimitsTold(tokens_left=0), 3_000, age_ms=STALE_MS + 1)
    assert limiter.wait(1_000, 3_000) is None


def test_requests_that_are_left_bound_those_that_go() -> None:
    limiter = Limiter(Rates(requests_per_min=600), 0)
    limiter.told(LimitsTold(requests_per_min=600, requests_left=2), 10_000)
    gone = 0
    while limiter.wait(0, 10_000) is None:
        limiter.take(0, 10_000)
        gone += 1
    assert gone == 2
    limiter.told(LimitsTold(requests_per_min=600, requests_left=0), 10_000)
    wait = limiter.wait(0, 10_000)
    assert wait is not None
    assert wait.ms is not None
    assert wait.ms <= 201


def test_told_limits_are_forgotten_if_answers_tell_no_more() -> None:
    limiter = Limiter(Rates(tokens_per_min=100), 0)
    limiter.told(LimitsTold(tokens_per_min=10), 0)
    limiter.told(None, TOLD_FOR_MS)
    assert limiter.tokens_per_min == 10
    limiter.told(None, TOLD_FOR_MS + 1)
    assert limiter.tokens_per_min == 100


def test_a_rate_that_is_found_out_doubles_until_the_first_refusal_and_then_rises_by_a_tenth_a_minute() -> None:
    limiter = Limiter(DISCOVER, 0)
    serve(limiter, 0, DOUBLES_IN_MS * 3)
    assert limiter.tokens_per_min == pytest.approx(8 * FIRST_TOKENS_PER_MIN, rel=0.2)
    now_ms = DOUBLES_IN_MS * 3
    limiter.take(1, now_ms)
    limiter.refused(1, now_ms, limited=True, told_ms=0)
    found = limiter.tokens_per_min or 0.0
    assert found < 8 * FIRST_TOKENS_PER_MIN
    serve(limiter, now_ms, now_ms + 90_000)
    assert limiter.tokens_per_min == pytest.approx(found * 1.1, rel=0.01)


def test_a_rate_that_is_not_used_does_not_rise() -> None:
    limiter = Limiter(DISCOVER, 0)
    serve(limiter, 0, 120_000, share=0.5)
    assert limiter.tokens_per_min == FIRST_TOKENS_PER_MIN


def test_a_large_rate_rises_slowly() -> None:
    limiter = Limiter(DISCOVER, 0)
    while (limiter.tokens_per_min or 0.0) <= SLOW_ABOVE:
        serve(limiter, limiter._risen_ms + 100, limiter._risen_ms + 10_000)
    before, now_ms = limiter.tokens_per_min or 0.0, limiter._risen_ms
    serve(limiter, now_ms + 100, now_ms + 900_000)
    assert before * 1.4 < (limiter.tokens_per_min or 0.0) < before * 1.51


def test_a_lender_finds_nothing_out_from_the_few_jobs_that_it_serves() -> None:
    limiter = Limiter(DISCOVER, 0, share=0.25)
    limiter.lent(LentShare(0.005), 0)
    for now_ms in range(0, 600_000, 10_000):
        limiter.take(1_000, now_ms)
        limiter.answered(1_000, now_ms)
        limiter.ended(1_000, 1_000)
    assert limiter.tokens_per_min == FIRST_TOKENS_PER_MIN
    limiter.take(1_000, 600_000)
    limiter.refused(1_000, 600_000, limited=True, told_ms=0)
    assert limiter.tokens_per_min == pytest.approx(0.8 * FIRST_TOKENS_PER_MIN)
