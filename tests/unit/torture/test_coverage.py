"""What a run must have met: each lack is found, and only where the run must have met it."""

from dataclasses import replace
from pathlib import Path

import pytest

from backstop.dev.invariants import Breach
from tests.torture.coverage import BEGUN_SHARE, failpoints_missing, hedges_missing, jobs_held
from tests.torture.failpoint_deck import FAILPOINTS
from tests.torture.hedges import Races
from tests.torture.plan import Plan

CALM = Plan(folder=Path("run"), jobs=1_500, minutes=5, seed=3, faults="demo", breaks=False, hedges=True)
BROKEN = replace(CALM, breaks=True, minutes=10)
MET = Races(
    permitted=9, granted=9, raced=8, won=5, lost=2, undecided=1, cancelled=6, through_a_kill=3
)  # fmt: skip


def found(breaches: list[Breach]) -> list[str]:
    return [example for breach in breaches for example in breach.examples]


@pytest.mark.parametrize("plan", [CALM, BROKEN], ids=["calm", "broken"])
@pytest.mark.parametrize("kind", ["permitted", "raced", "won", "lost", "cancelled"])
def test_each_kind_of_hedges_must_have_happened(plan: Plan, kind: str) -> None:
    assert found(hedges_missing(plan, MET)) == []
    assert found(hedges_missing(plan, replace(MET, **{kind: 0}))) == [kind]
    assert found(hedges_missing(replace(plan, hedges=False), Races())) == []


def test_where_workers_are_killed_one_dies_in_the_middle_of_a_race() -> None:
    unharmed = replace(MET, through_a_kill=0)
    assert found(hedges_missing(BROKEN, unharmed)) == ["through_a_kill"]
    assert found(hedges_missing(CALM, unharmed)) == []


def test_a_run_that_is_short_or_under_all_faults_of_the_provider_is_not_judged_by_its_flow() -> None:
    for plan in (replace(CALM, minutes=1.5), replace(BROKEN, faults="torture")):
        assert hedges_missing(plan, Races()) == []
        assert jobs_held(plan, ["a"], []) == []


def test_a_run_that_holds_most_of_its_jobs_is_found() -> None:
    jobs = [f"job_{number}" for number in range(100)]
    enough = int(100 * BEGUN_SHARE)
    assert found(jobs_held(CALM, jobs, jobs[:enough])) == []
    assert found(jobs_held(CALM, jobs, [*jobs[: enough - 1], "foreign"])) == [f"{enough - 1} of 100 were begun"]


def test_a_long_run_has_met_every_failpoint() -> None:
    assert found(failpoints_missing(BROKEN, FAILPOINTS)) == []
    first, *others = sorted(FAILPOINTS)
    assert found(failpoints_missing(BROKEN, others)) == [first]
    assert failpoints_missing(replace(BROKEN, minutes=9), []) == []
    assert failpoints_missing(CALM, []) == []
