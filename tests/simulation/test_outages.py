"""An hour without the provider, whatever it says meanwhile, costs no job, and nobody much; and two minutes later all is as before."""

import pytest

from tests.simulation.outages import ALL_KINDS, HOUR_S, Course, away

JOBS = 300
FIRST_MINUTE = 12
"""Creates that go out before a lane is closed and while its probes' waits grow; from then on there is one a minute."""


def check(course: Course, minutes: int) -> None:
    assert not course.defects
    assert set(course.outcomes) <= {"completed", "open"}, course
    assert course.not_accepted == 0, course
    assert course.accepted_a_job <= 1.01, course
    assert course.creates_away <= FIRST_MINUTE + minutes, course


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_an_hour_of_one_kind(kind: str) -> None:
    check(away(JOBS, (kind,), each_s=HOUR_S), 60)


def test_all_kinds_one_after_the_other() -> None:
    check(away(JOBS, ALL_KINDS, each_s=HOUR_S / len(ALL_KINDS)), 60)


@pytest.mark.parametrize("kind", ["502", "529"])
def test_answers_that_prove_nothing_cost_no_job_either(kind: str) -> None:
    check(away(JOBS, (kind,), each_s=HOUR_S), 60)
