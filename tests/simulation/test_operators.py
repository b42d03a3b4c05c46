"""The whole system, broken from a seed, while operators change priorities and deadlines and retry ended jobs."""

from collections import Counter

import pytest

from tests.simulation.run import simulate

JOBS = 25
MET = (
    "changed a job", "retried an ended job", "jobs: waiting -> active by job_admitted",
    "jobs: waiting -> waiting by job_changed", "jobs: active -> active by job_changed",
    "jobs: backing_off -> backing_off by job_changed", "jobs: active -> finished by job_changed",
    "responses: running -> running by response_deadline_moved", "jobs: duplicate job_submitted while waiting",
)  # fmt: skip


@pytest.mark.parametrize("seeds", [range(4), pytest.param(range(4, 300), marks=pytest.mark.long)], ids=["4", "300"])
@pytest.mark.timeout(900)
def test_all_invariants_hold_whatever_operators_do(seeds: range) -> None:
    met: Counter[str] = Counter()
    failed = {}
    for seed in seeds:
        outcome = simulate(seed, JOBS, operators=True)
        met.update(outcome.met)
        if outcome.violations:
            failed[seed] = outcome.violations
    assert not failed
    assert [what for what in MET if not met[what]] == []
