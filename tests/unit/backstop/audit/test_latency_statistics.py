"""Intervals that hold as often as they say, and a curve that knows of what has not ended."""

from random import Random

import pytest

from backstop.audit.latency.statistics import Interval, Sample, proportion, quantiles, ranks, survival

DRAWS = 400


@pytest.mark.parametrize(("count", "share"), [(30, 0.5), (200, 0.95), (3_000, 0.99)])
def test_the_interval_of_a_quantile_holds_in_at_least_its_share_of_draws(count: int, share: float) -> None:
    random = Random(count)
    held = 0
    low, high = ranks(count, share)
    for _ in range(DRAWS):
        ordered = sorted(random.random() for _ in range(count))
        held += (low == 0 or ordered[low - 1] <= share) and (high > count or share <= ordered[high - 1])
    assert held >= 0.925 * DRAWS, "95 %, and the chance of the draws"


def test_a_sample_that_is_too_small_has_no_upper_bound() -> None:
    assert quantiles([Sample(ms) for ms in range(1, 20)], [0.99]) == [Interval(19, 18, None)]
    assert quantiles([], [0.5]) == [Interval(None, None, None)]


def test_what_has_not_ended_moves_the_quantiles_up() -> None:
    ended = [Sample(1_000 * each) for each in range(1, 101)]
    still = [Sample(50_000, ended=False)] * 100
    (alone,), (together,) = quantiles(ended, [0.5]), quantiles([*ended, *still], [0.5])
    assert alone.value == 50_000
    assert together.value is not None
    assert together.value > alone.value
    assert quantiles([Sample(1, ended=False)], [0.5]) == [Interval(None, None, None)]


def test_the_curve_with_censoring_is_that_of_kaplan_and_meier() -> None:
    curve = survival([Sample(1), Sample(2, ended=False), Sample(3), Sample(4)])
    assert [(point.ms, round(point.share, 6)) for point in curve] == [(1, 0.75), (3, 0.375), (4, 0.0)]


def test_the_interval_from_a_curve_holds_the_truth_where_a_third_is_censored() -> None:
    random = Random(7)
    held = 0
    for _ in range(DRAWS):
        pairs = [(random.expovariate(1 / 60_000), random.expovariate(1 / 120_000)) for _ in range(120)]
        samples = [Sample(round(min(pair)), pair[0] <= pair[1]) for pair in pairs]
        (median,) = quantiles(samples, [0.5])
        held += median.low is not None and median.low <= 41_589 <= (median.high or 1e12)
    assert held >= 0.92 * DRAWS


def test_a_share_has_wilsons_interval() -> None:
    share = proportion(3, 100)
    assert share.value == 0.03
    assert share.low == pytest.approx(0.0103, abs=1e-4)
    assert share.high == pytest.approx(0.0845, abs=1e-4)
    assert proportion(0, 50).low == 0.0
    assert proportion(0, 0) == Interval(None, None, None)
