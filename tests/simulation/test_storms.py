"""The class of failures in which a system under faults does ever less, and goes on so when they are over.

Longer ones by hand: `python -m tests.simulation.storms SEED …`.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache

import pytest

from tests.simulation.storms import Course, Storm, weather

MANY = pytest.param(tuple(range(1, 13)), marks=pytest.mark.long)
SEEDS = pytest.mark.parametrize("seeds", [(1,), MANY], ids=len)
STORM = Storm(jobs_per_s=4.0, calls_per_s=6.0, broken_s=300, calm_s=180)
SMALL = Storm(jobs_per_s=2.0, calls_per_s=3.0, broken_s=300, calm_s=180)
"""With as many calls for each job, in half the time."""
POINTS = 0.05


@cache
def course(seed: int, storm: Storm) -> Course:
    return weather(seed, storm)


def courses(seeds: Sequence[int]) -> list[Course]:
    return [course(seed, SMALL if len(seeds) == 1 else STORM) for seed in seeds]


def pooled(seeds: Sequence[int], minute: int) -> float:
    """The share of all seeds' jobs, as some hundred jobs of one seed's minute say too little."""
    counts: Counter[str] = Counter()
    for each in courses(seeds):
        counts.update(each.outcomes[minute])
    return (counts["expired"] + counts["open"]) / counts.total()


def shown(seeds: Sequence[int]) -> list[str]:
    return [str(each) for each in courses(seeds)]


@SEEDS
@pytest.mark.timeout(300)
def test_in_the_fifth_minute_of_faults_as_many_jobs_are_done_as_in_the_first(seeds: Sequence[int]) -> None:
    assert pooled(seeds, 4) <= pooled(seeds, 0) + POINTS, shown(seeds)
    assert not any(each.defects for each in courses(seeds))


@SEEDS
@pytest.mark.timeout(300)
def test_two_minutes_after_the_last_fault_all_is_as_it_should_be(seeds: Sequence[int]) -> None:
    assert pooled(seeds, 7) <= pooled(seeds, 0) + POINTS, shown(seeds)
    assert all(each.uncommitted == 0 for each in courses(seeds)), shown(seeds)


@SEEDS
@pytest.mark.timeout(300)
def test_what_is_done_is_hardly_ever_done_again(seeds: Sequence[int]) -> None:
    answers = sum(each.answers for each in courses(seeds))
    assert sum(each.repeats for each in courses(seeds)) <= 0.06 * answers, shown(seeds)
