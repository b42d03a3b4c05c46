"""What repeated runs say: medians, ratios to limits of the same run, and goals that are missed."""

import pytest

from bench.judging import Goal, flat, judged

LATENCY = Goal("steady.p50", "latency, ms", 8, beside="bare.hop")
RATE = Goal("burst.rate", "jobs/s", 700, at_least=True)


def test_nested_figures_have_paths_and_only_numbers_count() -> None:
    assert dict(flat({"a": {"b": 1, "ok": True, "of": {"c": 2.5}}, "name": "x", "d": 0})) == {
        "a.b": 1.0, "a.of.c": 2.5, "d": 0.0
    }  # fmt: skip


def test_a_figure_is_the_median_with_its_spread_and_the_ratio_to_the_limits_median() -> None:
    (row,) = judged({"steady.p50": [9, 4, 6], "bare.hop": [1, 3, 2]}, [LATENCY])
    assert (row.median, row.least, row.most, row.limit, row.ratio) == (6, 4, 9, 2, 3)
    assert row.short == ()


def test_a_missed_goal_is_named_with_how_far_it_is_away() -> None:
    latency, rate = judged({"steady.p50": [12.0], "burst.rate": [350.0]}, [LATENCY, RATE])
    assert latency.short == ("latency, ms: 12, the goal is ≤ 8 (1.50 times)",)
    assert rate.short == ("jobs/s: 350, the goal is ≥ 700 (2.00 times)",)


@pytest.mark.parametrize(("value", "reached"), [(8, True), (8.01, False)])
def test_the_bound_itself_is_reached(value: float, *, reached: bool) -> None:
    (row,) = judged({"steady.p50": [value]}, [LATENCY])
    assert (row.short == ()) is reached


def test_a_ratio_may_have_a_bound_of_its_own() -> None:
    goal = Goal("big.rate", "burst", None, at_least=True, beside="burst.rate", of_beside=0.9)
    (row,) = judged({"big.rate": [80.0], "burst.rate": [100.0]}, [goal])
    assert row.short == ("burst: 0.80 × `burst.rate`, the goal is ≥ 0.9 ×",)
    (row,) = judged({"big.rate": [90.0], "burst.rate": [100.0]}, [goal])
    assert row.short == ()


def test_a_goal_that_was_not_measured_is_left_out_and_one_without_a_limit_has_no_ratio() -> None:
    assert judged({}, [LATENCY, RATE]) == []
    (row,) = judged({"steady.p50": [5.0], "bare.hop": [0.0]}, [LATENCY])
    assert row.ratio is None


def test_no_creates_beyond_the_first_is_a_goal_that_one_misses() -> None:
    goal = Goal("kill.duplicates", "duplicates", 0)
    assert judged({"kill.duplicates": [0.0]}, [goal])[0].short == ()
    assert judged({"kill.duplicates": [1.0]}, [goal])[0].short == ("duplicates: 1, the goal is ≤ 0",)
