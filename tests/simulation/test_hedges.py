"""Hedges in simulated runs: they happen, either attempt may win, and every invariant holds. Of the runs that a seed
draws, half have no hedges; `must_meet.txt` names what thousands of seeds must have met of them.
"""

import pytest

from tests.simulation.many import must_meet
from tests.simulation.run import simulate
from tests.simulation.test_aimed import CALM

JOBS = 40
SEED = 1
CRASHES = 0.02
"""Of a process, whenever it has an effect on the outside: several a run."""
PERMITTED_MIN = 8
WON = tuple(f"hedge: {who} won, the other one running" for who in ("first", "hedge"))
PERMITTED = "jobs: active -> active by hedge_permitted"


@pytest.mark.parametrize("broken", [{}, {"crash": CRASHES}], ids=["calm", "among kills"])
def test_hedges_are_won_by_either_attempt_and_every_invariant_holds(broken: dict[str, float]) -> None:
    outcome = simulate(SEED, JOBS, aimed={**CALM, **broken, "hedge": 1.0})
    assert outcome.violations == ()
    assert outcome.met[PERMITTED] >= PERMITTED_MIN
    assert all(outcome.met[how] for how in WON), outcome.met
    assert not broken or any(what.startswith("crash at ") for what in outcome.met), outcome.met


def test_without_jobs_that_ask_there_is_no_hedge() -> None:
    outcome = simulate(SEED, JOBS, aimed={**CALM, "hedge": 0.0})
    assert not [what for what in outcome.met if "hedge" in what]


def test_thousands_of_seeds_must_have_met_hedges_that_either_attempt_won() -> None:
    assert {PERMITTED, *WON} <= set(must_meet())
