"""An hour's outage of the provider, with any kind of answer, loses no job, costs little, and is over two
minutes later.
"""

from collections.abc import Sequence
from typing import Any

import pytest

from streams.policy.lanes import FAILURES_MAX
from tests.simulation.outages import ALL_KINDS, HOUR_S, Course, away
from tests.simulation.provider import POLLS_TOO

JOBS = 200
FIRST_MINUTE = FAILURES_MAX + 3
"""Those that fail before a lane is closed, and three probes; what is in flight at that moment comes on top, and is
nothing at this load.
"""


def check(course: Course) -> None:
    assert not course.defects
    assert set(course.outcomes) <= {"completed", "open"}, course
    assert course.not_accepted == 0, course
    assert course.accepted_a_job <= 1.01, course
    first, *later = course.creates_away
    assert first <= FIRST_MINUTE, course
    assert max(later) <= 1, course
    assert sum(later) >= len(later) - 2, course  # the lane is probed, by any worker that runs


def short_form(*kinds: str, of: Sequence[str] = ALL_KINDS) -> list[Any]:
    """All of them; the others than `kinds` in the long form."""
    return [kind if kind in kinds else pytest.param(kind, marks=pytest.mark.long) for kind in of]


@pytest.mark.parametrize("kind", short_form("503"))
def test_an_hour_of_one_kind(kind: str) -> None:
    """One that closes a lane. Below: one that closes an account, and all of them."""
    check(away(JOBS, (kind,), each_s=HOUR_S))


@pytest.mark.long
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_several_workers_send_no_more_than_one(kind: str) -> None:
    check(away(JOBS, (kind,), each_s=HOUR_S / 4, workers=4))


@pytest.mark.parametrize("kind", short_form("429_quota", of=("401", "429_quota")))
def test_a_condition_of_the_account_is_probed_once_for_all_models(kind: str) -> None:
    course = away(JOBS, (kind,), each_s=HOUR_S, workers=2, models=5)
    check(course)
    assert course.creates_away[0] <= 1 + 3 + 5, course  # one, three probes, and those in flight


def test_workers_that_start_in_an_outage_begin_closed() -> None:
    check(away(JOBS, ("503",), each_s=HOUR_S / 2, workers=3, restart_s=300))


def test_all_kinds_one_after_the_other() -> None:
    check(away(JOBS, ALL_KINDS, each_s=HOUR_S / len(ALL_KINDS), workers=2))


@pytest.mark.parametrize("kind", short_form("lost", of=("lost", "timeout", "502", "529")))
def test_a_silence_costs_few_jobs_no_retry(kind: str) -> None:
    """Each create into a silence may be paid. Few jobs would use up their retries: each probe is one of them."""
    course = away(6, (POLLS_TOO + kind,), each_s=HOUR_S)
    assert not course.defects
    assert set(course.outcomes) <= {"completed", "open"}, course
    assert course.not_accepted == 0, course
    assert sum(course.creates_away) <= 2, course  # of the first half minute, in which a poll was heard before


@pytest.mark.parametrize("kind", short_form("502", of=("502", "529")))
def test_doubts_outlast_an_hour_while_polls_are_answered(kind: str) -> None:
    """The one job that meets it is each of the lane's probes. Its last doubts are spread up to its deadline."""
    course = away(2, (kind,), each_s=HOUR_S)
    assert not course.defects
    assert set(course.outcomes) <= {"completed", "open"}, course


@pytest.mark.parametrize("kind", ["502", "529"])
@pytest.mark.long
def test_answers_that_prove_nothing_cost_no_job_either(kind: str) -> None:
    check(away(JOBS, (kind,), each_s=HOUR_S, workers=2))
