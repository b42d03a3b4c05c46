"""Limits in short: what share of them is used, how many creates are refused, and who waits. The long form is
`python -m bench.limits`.
"""

from statistics import fmean

import pytest

from bench.limits_course import limited
from bench.limits_scene import Course, Headers, Scene
from streams.policy.lending import FRESH_MS

TWO, FOUR = pytest.param(2, marks=pytest.mark.long), pytest.param(4, marks=pytest.mark.long)
"""Workers. Two share a limit as well; in the short form where all jobs lie at one of them."""


@pytest.mark.parametrize("workers", [1, TWO, FOUR])
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_the_limit_is_used_and_few_creates_are_refused(workers: int, seed: int) -> None:
    course = limited(Scene(workers=workers, minutes=10, seed=seed))
    assert course.share(1, 10) >= 0.95, course.used
    assert course.refusals <= 0.01, course.refused
    assert course.refused_first <= 0.01, course.refused
    assert abs(course.error) <= 0.10


@pytest.mark.parametrize("workers", [2, FOUR])
def test_the_limit_is_used_where_all_jobs_lie_at_one_worker(workers: int) -> None:
    course = limited(Scene(workers=workers, minutes=6, lies_at=0))
    assert course.share(1, 6) >= 0.95, course.used
    assert course.refusals <= 0.01, course.refused


def test_partitions_that_move_cost_seconds_of_a_lent_limit() -> None:
    course = limited(Scene(workers=4, minutes=8, lies_at=0, moves=((240, (1, 1, 9, 1)), (360, (12, 0, 0, 0)))))
    assert min(course.granted(second + 5, 60) for second in (240, 360)) >= 0.9
    assert course.most_granted(2, 8) <= 1 + 3 / 60 + 3 * 4 * 1_324 / 100_000 + FRESH_MS / 60_000


def test_a_bulk_backlog_delays_no_interactive_job() -> None:
    idle = limited(Scene(interactive=True, load=0.0001, minutes=20, seed=1))
    busy = limited(Scene(interactive=True, bulk=True, load=3.0, minutes=20, seed=1))
    assert busy.wait_ms("interactive", 0.99) <= 2 * idle.wait_ms("interactive", 0.99)
    assert busy.share(5, 20) >= 0.95


def test_a_flood_of_one_tenant_delays_the_others_by_a_fifth_at_most() -> None:
    means = list[float]()
    for flood in (False, True):
        course = limited(Scene(floods=True, flood=flood, load=0.5, minutes=12, seed=2))
        waits = [each for number in range(9) for each in course.waits_ms[f"t{number}"]]
        means.append(sum(waits) / len(waits))
    assert means[1] <= 1.2 * means[0], means
    assert course.share(5, 12) >= 0.95


def test_a_limit_that_falls_without_notice_is_followed_within_two_minutes() -> None:
    course = limited(Scene(minutes=12, changes=((6, 50_000),), load=3.0))
    assert course.share(8, 12) >= 0.8, course.used
    assert course.refusals <= 0.1, course.refused


@pytest.mark.parametrize("workers", [1, TWO, FOUR])
@pytest.mark.parametrize("limit", [50_000.0, pytest.param(200_000.0, marks=pytest.mark.long)])
def test_a_limit_that_changes_without_notice_is_followed_within_a_minute_where_headers_tell_it(
    workers: int, limit: float
) -> None:
    scene = Scene(workers=workers, minutes=10, told_limit=None, headers="true", changes=((5, limit),), load=4.0)
    course = limited(scene)
    assert course.share(1, 5) >= 0.95, course.used
    assert course.share(6, 10) >= 0.95, course.used
    assert course.refusals <= 0.01, course.refused


def test_a_limit_that_changes_is_followed_where_all_jobs_lie_at_one_worker() -> None:
    scene = Scene(
        workers=2, minutes=8, told_limit=None, headers="true", changes=((4, 50_000.0),), load=4.0, lies_at=0
    )  # fmt: skip
    course = limited(scene)
    assert course.share(5, 8) >= 0.95, course.used
    assert course.refusals <= 0.01, course.refused


def test_a_limit_that_headers_tell_is_used_from_the_first_minute_on() -> None:
    course = limited(Scene(minutes=5, told_limit=None, headers="true"))
    assert course.used[0] >= 0.9
    assert course.refused_first == 0


def test_a_limit_that_nothing_tells_is_found_out_within_five_minutes() -> None:
    course = limited(Scene(minutes=12, told_limit=None))
    assert course.share(3, 12) >= 0.9, course.used
    assert course.refusals <= 0.05, course.refused


@pytest.mark.long
def test_four_workers_find_a_limit_out_together() -> None:
    """On average: where only refusals tell a limit, single runs use 89 to 101 % of it, with one worker as with four."""
    courses = [limited(Scene(workers=4, minutes=12, told_limit=None, seed=seed)) for seed in range(1, 6)]
    assert fmean(course.share(5, 12) for course in courses) >= 0.95, [course.used for course in courses]
    assert fmean(course.refusals for course in courses) <= 0.01, [course.refused for course in courses]


@pytest.mark.parametrize(
    ("headers", "least"), [("zero", 0.2), pytest.param("low", 0.01, marks=pytest.mark.long), ("high", 0.95)]
)
def test_headers_that_lie_stop_nothing(headers: Headers, least: float) -> None:
    """Where headers tell less than there is, fewer jobs go; where they tell more, what is set counts."""
    course = limited(Scene(minutes=8, headers=headers))
    assert course.share(2, 8) >= least, course.used
    assert course.refusals <= 0.01, course.refused


def test_the_sdks_own_retries_and_declared_limits_do_worse() -> None:
    retries: Course = limited(Scene(method="sdk", minutes=8))
    assert retries.refusals > 0.2
    assert retries.gave_up > 0
    declared: Course = limited(Scene(method="declared", minutes=8))
    assert declared.share(5, 8) < 0.2


def test_no_wave_follows_ten_minutes_without_creates() -> None:
    course = limited(Scene(minutes=16, load=1.0, away=(2, 12)))
    usual = 100_000 / 1_324
    assert course.grants.get(12, 0) <= 1.6 * usual, course.grants
    assert sum(course.refused.get(minute, 0) for minute in range(12, 16)) <= 8, course.refused
    assert max(course.probes[minute] for minute in range(4, 12)) <= 1, course.probes
    assert 0 <= min(at_ms for at_ms in course.accepted_ms if at_ms >= 12 * 60_000) - 12 * 60_000 <= 60_000
