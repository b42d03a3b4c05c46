"""The parts of the hedging policy: age, budget, and the stops of a class and of a lane."""

from dataclasses import dataclass

import pytest

from streams.policy.hedging import (
    CONTRADICTION,
    ENDS_LEAST,
    ENDS_MIN,
    FAILED_MAX,
    LANE_REST_MS,
    LEVEL_MAX,
    OUTCOMES,
    REST_MS,
    REST_MS_MAX,
    SAVED_MS,
    SCORE_AGAIN,
    SCORE_MIN,
    ClassStop,
    HedgeAge,
    HedgeBudget,
    LaneStop,
    ends_for_age,
    hedge_age,
    stuck_share,
)
from streams.policy.latency_counts import Counts, Curve, kaplan_meier


@dataclass
class Known:
    ends: int = ENDS_MIN
    oldest_end_ms: float | None = 400_000.0
    high_ms: float | None = 300_000.0
    oldest_seen_ms: float = 400_000.0

    def running(self, age_ms: float) -> float:
        return 0.0 if age_ms > self.oldest_seen_ms else 0.02

    def quantile_ms(self, share: float) -> float | None:
        return 60_000.0 if share == 0.5 else self.high_ms


def ended(count: int, scale: float = 1.0) -> Curve:
    """The curve of so many runs from 1 s to 100 s."""
    counts = Counts()
    for number in range(count):
        counts.enter()
        counts.end(scale * 1_000 * (1 + 99 * number / count))
    return kaplan_meier(counts)


def age_of(curve: Known) -> HedgeAge | None:
    return hedge_age(curve, curve, 0.02)


def with_stuck(count: int, age_ms: float) -> Curve:
    """1,000 runs of 50 to 150 s, and some that have not ended at this age."""
    counts = Counts()
    for number in range(1_000 + count):
        counts.enter()
        if number < 1_000:
            counts.end(50_000 + 100 * number)
        else:
            counts.leave(age_ms)
    return kaplan_meier(counts)


@pytest.mark.parametrize(("count", "age_ms", "share"), [
    (0, 0, 0.0), (10, 2_500_000, 0.01), (40, 2_500_000, 0.038), (40, 2_040_000, 0.038), (40, 1_960_000, 0.0),
    (1_000, 150_000, 0.0),
])  # fmt: skip
def test_what_runs_for_twenty_medians_is_stuck_and_nothing_is_before_that(
    count: int, age_ms: float, share: float
) -> None:
    assert stuck_share(with_stuck(count, age_ms)) == pytest.approx(share, abs=0.001)


def test_the_age_is_the_quantile() -> None:
    assert age_of(Known()) == HedgeAge(300_000, ENDS_MIN, 60_000)


@pytest.mark.parametrize("curve", [Known(ends=ENDS_MIN - 1), Known(high_ms=None), Known(oldest_end_ms=None)])
def test_no_age_while_too_little_is_known(curve: Known) -> None:
    assert age_of(curve) is None


def test_fewer_ends_are_enough_where_the_operator_says_so() -> None:
    few, known = Known(ends=ENDS_LEAST), Known()
    assert hedge_age(few, few, 0.02, ENDS_LEAST) == HedgeAge(300_000, ENDS_LEAST, 60_000)
    assert hedge_age(few, few, 0.02, ENDS_LEAST + 1) is None
    assert hedge_age(known, known, 0.02, ENDS_MIN + 1) is None


def test_the_age_is_not_far_beyond_the_longest_run() -> None:
    found = hedge_age(Known(high_ms=900_000.0), Known(ends=ENDS_MIN - 1), 0.02)
    assert found == HedgeAge(500_000, ENDS_MIN, 60_000)


def test_the_age_comes_from_many_ends_as_few_say_too_little_of_a_tail() -> None:
    assert ends_for_age(0.02) == 2_000
    assert ends_for_age(0.2) == 200
    found = hedge_age(ended(2_000), ended(300, 1.04), 0.02)
    assert found is not None
    assert found.after_ms == pytest.approx(98_000, rel=0.02)
    assert found.ended == 2_000


@pytest.mark.parametrize("change", [3.0, 1 / 3])
def test_the_newest_ends_decide_where_the_run_times_have_changed(change: float) -> None:
    found = hedge_age(ended(2_000), ended(300, change), 0.02)
    assert found is not None
    share = CONTRADICTION * 0.02 if change > 1 else 0.02 / CONTRADICTION
    assert found.after_ms == pytest.approx(100_000 * change * (1 - share), rel=0.02)
    assert found.median_ms == pytest.approx(50_000 * change, rel=0.03)


def test_where_more_run_on_than_may_be_hedged_the_newest_say_no_upper_age() -> None:
    counts = Counts()
    for _ in range(300):
        counts.enter()
        counts.end(1_000)
    for _ in range(20):
        counts.enter()
        counts.leave(1_000_000)
    found = hedge_age(ended(2_000), kaplan_meier(counts), 0.02)
    assert found is not None
    assert found.after_ms == pytest.approx(98_000, rel=0.02)


def test_responses_that_still_run_count_for_the_age() -> None:
    """150 ended within a minute, and 30 run for longer: the 98th percentile is not known, whatever has ended says."""
    counts = Counts()
    for number in range(150):
        counts.enter()
        counts.end(1_000 + 300 * number)
    before = kaplan_meier(counts)
    assert hedge_age(before, before, 0.02) is not None
    for _ in range(30):
        counts.enter()
        counts.leave(50_000)
    after = kaplan_meier(counts)
    assert hedge_age(after, after, 0.02) is None


def test_the_budget_is_empty_at_a_start_and_fills_with_submissions() -> None:
    budget = HedgeBudget(0.02)
    assert not budget.take()
    for _ in range(51):
        budget.submitted(0)
    assert budget.take()
    assert not budget.take()


def test_the_budget_saves_up_half_an_hours_worth_or_ten() -> None:
    few, many = HedgeBudget(0.02), HedgeBudget(0.02)
    for number in range(10_000):
        few.submitted(number * 10_000)
        many.submitted(number * 1_000)
    assert few.level == LEVEL_MAX
    assert many.level == pytest.approx(0.02 * SAVED_MS / 1_000)


def test_the_budget_of_a_busy_half_hour_lasts_into_the_next_one() -> None:
    budget = HedgeBudget(0.05)
    for _ in range(1_000):
        budget.submitted(SAVED_MS - 1)
    assert budget.level == pytest.approx(50)
    budget.submitted(SAVED_MS)
    assert budget.level == pytest.approx(50)
    budget.submitted(2 * SAVED_MS)
    assert budget.level == LEVEL_MAX


def test_a_class_stops_after_18_losses_and_tries_again_with_half_of_the_score() -> None:
    stop = ClassStop()
    for _ in range(17):
        stop.lost(5)
    assert stop.until_ms == 0
    stop.lost(5)
    assert (stop.until_ms, stop.score) == (5 + REST_MS, SCORE_AGAIN)


def test_rests_become_longer_up_to_a_day_and_short_again_after_a_win() -> None:
    stop, now_ms, rests_ms = ClassStop(), 0, []
    for _ in range(7):
        while now_ms >= stop.until_ms:
            stop.lost(now_ms)
        rests_ms.append(stop.until_ms - now_ms)
        now_ms = stop.until_ms
    assert rests_ms == [REST_MS, 2 * REST_MS, 4 * REST_MS, 8 * REST_MS, 16 * REST_MS, REST_MS_MAX, REST_MS_MAX]
    stop.won()
    stop.won()
    while now_ms >= stop.until_ms:
        stop.lost(now_ms)
    assert stop.until_ms - now_ms == REST_MS


def test_losses_of_hedges_that_began_before_the_stop_do_not_lengthen_it() -> None:
    stop = ClassStop()
    for _ in range(40):
        stop.lost(5)
    assert stop.until_ms == 5 + REST_MS


def test_wins_give_credit_to_a_bound() -> None:
    stop = ClassStop()
    for _ in range(100):
        stop.won()
    assert stop.score == SCORE_MIN


def test_more_than_a_tenth_of_failures_stops_the_lane() -> None:
    lane = LaneStop()
    for _ in range(OUTCOMES):
        lane.outcome(5, failed=False)
    for _ in range(FAILED_MAX):
        lane.outcome(5, failed=True)
    assert lane.until_ms == 0
    lane.outcome(7, failed=True)
    assert lane.until_ms == 7 + LANE_REST_MS


def test_old_failures_are_forgotten() -> None:
    lane = LaneStop()
    for number in range(20 * OUTCOMES):
        lane.outcome(5, failed=number % 10 == 0)
    assert lane.until_ms == 0
