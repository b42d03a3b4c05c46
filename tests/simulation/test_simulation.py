"""The whole system, broken from a seed, in virtual time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.chaos import CRASH_POINTS
from tests.simulation.many import kept_seeds, must_meet
from tests.simulation.run import simulate

ROOT = Path(__file__).parents[2]
SEEDS = 5
"""`SEEDS_LONG` takes five minutes of two cores."""

SEEDS_LONG = 2_000
JOBS = 50
FEW_JOBS = 20


def run(*arguments: str, hash_seed: str = "0") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_over_some_seeds_all_invariants_hold() -> None:
    done = run("--seeds", f"0:{SEEDS}", "--jobs", str(JOBS))
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_over_thousands_of_seeds_all_invariants_hold_and_everything_is_met() -> None:
    done = run("--seeds", f"0:{SEEDS_LONG}", "--jobs", str(JOBS), "--must-meet")
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]


@pytest.mark.parametrize("jobs", [FEW_JOBS, pytest.param(JOBS, marks=pytest.mark.long)])
def test_a_seed_is_the_same_run_step_by_step_in_any_process(jobs: int) -> None:
    first, second = (run("--seed", "7", "--jobs", str(jobs), "--trace", hash_seed=seed) for seed in ("0", "1"))
    assert first.returncode == 0, first.stdout[-2_000:]
    assert len(first.stdout.splitlines()) > 500
    assert first.stdout == second.stdout


def test_a_run_leaves_nothing_behind_that_changes_the_next() -> None:
    alone = simulate(5, 10, trace=True)
    simulate(6, 10)
    assert simulate(5, 10, trace=True) == alone


def test_a_failed_seed_says_what_was_violated_its_last_steps_and_how_to_repeat_it() -> None:
    failed = next(
        done for seed in range(20) if (done := run("--seed", str(seed), "--wrong", "no_tail")).returncode == 1
    )
    assert "I2: " in failed.stdout
    assert "its last steps:" in failed.stdout
    assert "again: python -m tests.simulation --seed" in failed.stdout


def test_whatever_must_be_met_and_is_not_fails_the_run() -> None:
    done = run("--seeds", "0:1", "--jobs", "1", "--processes", "1", "--must-meet")
    assert done.returncode == 1
    assert "NEVER MET: " in done.stdout


def test_a_death_at_every_point_is_among_what_must_be_met() -> None:
    assert {f"crash at {point}" for point in CRASH_POINTS} <= set(must_meet())


def test_every_seed_that_ever_failed_holds() -> None:
    failed = {seed: outcome.violations for seed in kept_seeds() if (outcome := simulate(seed, JOBS)).violations}
    assert not failed
