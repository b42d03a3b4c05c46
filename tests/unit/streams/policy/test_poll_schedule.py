"""The schedule of polls with the least cost: bounds, look-ups, and the induction against an exhaustive search."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.policy.latency import root_curve
from streams.policy.latency_counts import BUCKETS, EDGES_MS
from streams.policy.poll_schedule import BEGUN, GRID, SPACING_MIN_MS, Grid, schedule

PRIOR = root_curve(60_000, 0.8).masses()
FEW = Grid(tuple(1_000.0 * 2**number for number in range(9)), tuple(700.0 * 2**number for number in range(9)))


def least_cost(masses: list[float], price_s: float) -> float:
    """The least cost of any set of polls whose last is at the last edge: by trying all."""
    edges, values, last = FEW.edges_ms, FEW.values_ms, len(masses) - 1
    costs = []
    for chosen in range(1 << last):
        polls = [number for number in range(last) if chosen >> number & 1] + [last]
        cost, before = 0.0, -1
        for poll in polls:
            cost += price_s * 1_000 * (1 - sum(masses[: poll + 1]))
            cost += sum(masses[j] * (edges[poll] - values[j]) for j in range(before + 1, poll + 1))
            before = poll
        costs.append(cost)
    return min(costs)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 100), min_size=9, max_size=9), st.floats(0.1, 300.0))
def test_no_other_schedule_costs_less(weights: list[int], price_s: float) -> None:
    masses = [weight / sum(weights) for weight in weights]
    made = schedule(masses, price_s, 3_600_000, FEW)
    assert price_s * 1_000 * made.polls + made.delay_ms == pytest.approx(least_cost(masses, price_s), rel=1e-6)


@given(st.floats(0.4, 400), st.integers(2_000, 3_600_000), st.floats(0, 2e7))
@settings(max_examples=40)
def test_spacings_keep_their_bounds(price_s: float, spacing_max_ms: int, age_ms: float) -> None:
    made = schedule(PRIOR, price_s, spacing_max_ms)
    spacing_ms = made.next_age_ms(age_ms) - age_ms
    begun_ms = next(
        edge for edge, run in zip(EDGES_MS, root_curve(60_000, 0.8).survival, strict=True) if 1 - run > BEGUN
    )
    assert spacing_ms >= SPACING_MIN_MS * 0.999
    assert spacing_ms <= 1.001 * max(spacing_max_ms, begun_ms + spacing_max_ms - age_ms)


def test_a_dearer_poll_or_fewer_lost_webhooks_make_fewer_polls() -> None:
    made = [schedule(PRIOR, price_s) for price_s in (0.4, 2, 8, 40, 120, 400)]
    assert all(after.polls < before.polls for before, after in pairwise(made))
    assert all(after.delay_ms > before.delay_ms for before, after in pairwise(made))


def test_the_table_is_right_from_any_age() -> None:
    """After an outage of the workers the next poll is one of the ages that follow, not one that has passed."""
    made = schedule(PRIOR, 8.0)
    for age_ms in (1, 700, 46_000, 60_000, 300_000, 5_000_000, 20_000_000):
        assert made.next_age_ms(age_ms) >= age_ms + SPACING_MIN_MS
    assert [round(age / 1_000) for age, _ in zip(made.ages_ms(), range(5), strict=False)] == [47, 76, 104, 135, 165]


def test_past_the_oldest_age_the_last_spacing_is_kept() -> None:
    made = schedule(PRIOR, 8.0, 240_000)
    beyond_ms = EDGES_MS[-1] * 2
    assert made.next_age_ms(beyond_ms) - beyond_ms == pytest.approx(made.keep_ms)
    assert made.keep_ms <= 240_000


def test_all_ends_in_one_bucket_make_one_poll() -> None:
    masses = [0.0] * BUCKETS
    masses[300] = 1.0
    made = schedule(masses, 1.0)
    assert (made.first, made.polls) == (300, 0.0)
    assert made.delay_ms == pytest.approx(GRID.edges_ms[300] - GRID.values_ms[300])
