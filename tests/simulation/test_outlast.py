"""No invariant breaks under failures after acceptance and under outages of the provider, in any mixture."""

import pytest

from tests.simulation.provider import AFTER_ACCEPTANCE, HEARD, ODDITIES
from tests.simulation.run import simulate
from tests.simulation.system import System
from tests.simulation.test_aimed import CALM

OUTAGES = (
    *("never_sent", "503", "503_wait", "503_overloaded", "529", "429", "429_quota", "429_billing", "401", "html_403"),
    *("400_locked", "400_queue_full", "200_error"),
)
JOBS = 20


@pytest.mark.parametrize("end", [*AFTER_ACCEPTANCE, *ODDITIES])
def test_an_end_after_acceptance_breaks_no_invariant(end: str) -> None:
    outcome = simulate(0, JOBS, aimed={**CALM, "run_only": end, "run_odd": 0.5, "faults_end_s": 120.0})
    assert not outcome.violations
    assert outcome.met[f"run {end}"] > 0


@pytest.mark.parametrize("heard", OUTAGES)
def test_an_outage_of_the_provider_breaks_no_invariant(heard: str) -> None:
    creates: dict[int, int] = {}

    def count(system: System) -> None:
        creates.update(system.provider.creates)

    away = ((5.0, 40.0, heard),)
    outcome = simulate(0, JOBS, aimed={**CALM, "provider_away": away, "faults_end_s": 120.0}, poll_at=count)
    assert not outcome.violations
    assert outcome.met[f"provider away {heard}"] > 0
    assert sum(creates.values()) >= outcome.met[f"provider away {heard}"]


def test_what_an_outage_answers_is_known() -> None:
    assert set(OUTAGES) <= set(HEARD)
