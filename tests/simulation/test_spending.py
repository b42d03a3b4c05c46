"""Jobs with caps and fallbacks under all faults: the invariants hold, and caps and fallbacks do take effect."""

from collections import Counter
from typing import Any

import pytest

from schemas.codec import decode
from schemas.results import RESULT
from tests.simulation.run import simulate
from tests.simulation.system import System

SPENDING: dict[str, Any] = {"capped": 0.5, "falls_back": 0.7}
JOBS = 16


@pytest.mark.parametrize(
    ("aimed", "expected"),
    [
        ({"capped": 1.0, "create_fault": 0.3, "run_odd": 0.5}, {"cost_cap"}),
        ({"run_only": "failed_never", "run_odd": 0.35}, {"refused", "answered"}),
        ({"provider_away": ((0.0, 30.0, "401"),), "arrival_s": 8.0}, {"lane", "answered"}),
    ],
    ids=["any", "refused", "held"],
)
def test_jobs_with_caps_and_fallbacks_keep_all_invariants(aimed: dict[str, Any], expected: set[str]) -> None:
    broken: dict[int, Any] = {}
    seen: Counter[str] = Counter()

    def told(system: System) -> None:
        for log in system.broker.results:
            for _, _, value in log.records:
                result = decode(RESULT, value)
                seen["cost_cap"] += result.reason is not None and result.reason.code == "cost_cap"
                seen["answered"] += bool(result.fallbacks) and result.outcome == "completed"
                for brief in result.fallbacks or ():
                    seen[brief.why] += 1

    for seed in range(4):
        outcome = simulate(seed, JOBS, aimed={**SPENDING, **aimed}, poll_at=told)
        if outcome.violations:
            broken[seed] = outcome.violations
    assert not broken
    assert not {name for name in expected if not seen[name]}, seen
