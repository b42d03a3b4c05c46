"""Limits in short: what share of them is used, how many creates are refused, and who waits. The long form, with every
rule, is `python -m tests.simulation.limits`.
"""

import pytest

from tests.simulation.limits import Course, Rule, Scene, limited


@pytest.mark.parametrize(("workers", "rule"), [(1, "actual"), (2, "actual"), (4, "actual"), (1, "declared")])
def test_the_limit_is_used_whatever_is_charged_and_few_creates_are_refused(workers: int, rule: Rule) -> None:
    course = limited(Scene(workers=workers, rule=rule, minutes=10))
    assert course.share(5, 10) >= 0.95, course.used
    assert course.refusals <= 0.015, course.refused  # Of about 400 creates; the long form shows under 1 %.
    assert abs(course.error) <= 0.10


def test_a_limit_that_changes_without_notice_is_followed_within_a_minute() -> None:
    for limit in (50_000, 200_000):
        course = limited(Scene(minutes=10, changes=((6, limit),), told_limit=None, load=3.0))
        assert course.share(7, 10) >= 0.93, course.used
        assert sum(course.refused.get(minute, 0) for minute in range(6, 10)) <= 5, course.refused


def test_the_sdks_own_retries_and_declared_limits_do_worse() -> None:
    retries: Course = limited(Scene(method="sdk", minutes=8))
    assert retries.refusals > 0.2
    assert retries.gave_up > 0
    declared: Course = limited(Scene(method="declared", minutes=8))
    assert declared.share(5, 8) < 0.2


def test_no_wave_follows_an_hour_without_creates() -> None:
    course = limited(Scene(minutes=70, load=1.0, away=(2, 62)))
    usual = 100_000 / 1_324
    assert course.grants.get(62, 0) <= 1.6 * usual, course.grants
    assert sum(course.refused.get(minute, 0) for minute in range(62, 70)) <= 8, course.refused
