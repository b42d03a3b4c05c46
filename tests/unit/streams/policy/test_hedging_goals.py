"""The goals of hedging, in virtual time: extra creates, the tail of the run times, and when there must be no hedge. The
long form is `make bench-hedging`.
"""

from statistics import fmean

import pytest

from bench.hedging import MODELS, TABLE, Course, Scene, correlated, hedged, independent
from bench.hedging_goals import stopped
from streams.policy.hedging import LANE_REST_MS

pytestmark = pytest.mark.timeout(600)

JOBS = 10_000
JOBS_LONG = 50_000
SEEDS_LONG = (1, 2)
REACHED = ("independent", "5 % are 10 times slower", "1 % are stuck for 1 h", "Pareto 1.5", "correlation 0.5")
"""With a correlation of 0.9 hedges are stopped on purpose, so the tail stays as it is."""


def within_budget(course: Course) -> bool:
    """At no time more hedges than their share of the submissions so far, at 5,000 an hour on average, and a margin."""
    submitted_per_s = 5_000 / 3_600
    return all(
        number <= 10 + 1.2 * course.scene.share * submitted_per_s * at_s
        for number, at_s in enumerate(course.hedges_s, start=1)
    )


def test_the_tail_is_shorter_and_the_extra_creates_are_bounded() -> None:
    course = hedged(Scene(independent, 0.05, JOBS))
    p99, p999 = TABLE["independent", 0.05]
    assert course.extra <= 0.05 + 0.001
    assert course.quantile_s(0.99) <= 1.15 * p99
    assert course.quantile_s(0.999) <= 1.2 * p999
    assert 0.4 <= course.wins <= 0.7
    assert course.ended_before_first_hedge >= 100
    assert within_budget(course)


@pytest.mark.long
@pytest.mark.parametrize("share", [0.02, 0.05])
@pytest.mark.parametrize("model", REACHED)
def test_the_goals_are_reached_from_a_cold_start(model: str, share: float) -> None:
    courses = [hedged(Scene(MODELS[model], share, JOBS_LONG, seed)) for seed in SEEDS_LONG]
    p99, p999 = TABLE[model, share]
    assert fmean(course.extra for course in courses) <= share + 0.001
    assert fmean(course.quantile_s(0.99) for course in courses) <= 1.15 * p99
    assert fmean(course.quantile_s(0.999) for course in courses) <= 1.2 * p999
    assert all(within_budget(course) for course in courses)


def test_slow_machines_are_where_hedges_pay() -> None:
    course = hedged(Scene(MODELS["5 % are 10 times slower"], 0.05, JOBS))
    assert course.quantile_s(0.99) <= 0.5 * 1_179, "without hedges it is 1,179 s"
    assert course.wins >= 0.7


def test_there_is_no_hedge_after_the_first_rate_limit_of_a_brown_out() -> None:
    course = hedged(Scene(independent, 0.02, JOBS, brown_out_s=(3_600, 4_200)))
    first_s, last_s = course.limited_s[0], course.limited_s[-1]
    assert [at_s for at_s in course.hedges_s if first_s <= at_s < last_s + LANE_REST_MS / 1_000] == []
    assert any(at_s > last_s + LANE_REST_MS / 1_000 for at_s in course.hedges_s)


def test_correlated_jobs_stop_their_hedges() -> None:
    course = hedged(Scene(correlated(0.9), 0.02, JOBS))
    assert course.extra <= 0.006
    assert course.wins <= 0.1


@pytest.mark.long
def test_losers_that_count_as_ended_show() -> None:
    """A planted bug: where most hedges win, the slow runs would vanish from the curve, and the age would fall."""
    right, wrong = (
        hedged(Scene(MODELS["5 % are 10 times slower"], 0.02, JOBS, losers_censored=censored))
        for censored in (True, False)
    )
    assert wrong.quantile_s(0.999) > 1.2 * right.quantile_s(0.999)


def test_a_budget_that_is_full_at_the_start_shows() -> None:
    """A planted bug: each restart would grant hedges that no submission has paid for."""
    right, wrong = (hedged(Scene(independent, 0.02, 1_500, budget_full=full)) for full in (False, True))
    assert right.extra <= 0.02 + 0.001 < wrong.extra


@pytest.mark.long
def test_a_class_whose_hedges_hardly_win_stops_soon_and_one_whose_hedges_pay_goes_on() -> None:
    assert stopped(0.03, 50) >= 0.95
    assert stopped(0.25, 1_000) <= 0.01
