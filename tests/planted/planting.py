"""Plants one bug in a copy of the code, and asks the layer that must notice it."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.planted import Planted
from tests.torture.plan import Plan
from tests.torture.run import run
from tests.torture.tree import ROOT, copy_tree

TESTS_WITHIN_S = 600
RUNS = 3
"""Runs of torture, each with its own seed and longer than the last, before a bug counts as survived: on a busy machine
processes take so long to come back that a short run kills only a few."""


def caught(bug: Planted, folder: Path, on_kill: Callable[[Callable[[], None]], None]) -> str:
    """The invariants or words that show the bug was noticed; empty if it survived."""
    return _by_torture(bug, folder, on_kill) if bug.layer == "torture" else _by_tests(bug, folder)


def _by_torture(bug: Planted, folder: Path, on_kill: Callable[[Callable[[], None]], None]) -> str:
    runs = (_one_run(bug, folder / f"seed-{seed}", seed, on_kill) for seed in range(1, RUNS + 1))
    return next((found for found in runs if found), "")


def _one_run(bug: Planted, folder: Path, seed: int, on_kill: Callable[[Callable[[], None]], None]) -> str:
    plan = Plan(
        folder=folder, jobs=bug.jobs * seed, minutes=bug.minutes * seed, seed=seed, workers=2, projections=1,
        faults=bug.faults, timeout_ms=30_000, patience_s=15, failpoints=bug.failpoints, large=bug.large,
        patch=bug.patch,
    )  # fmt: skip
    folder.mkdir()
    outcome = asyncio.run(run(plan, lambda text: print(f"    {text}", file=sys.stderr, flush=True), on_kill))
    report = f"    {outcome.children.kills()} {outcome.children.failpoints()} {outcome.children.stops}"
    print(report, *map(str, outcome.verdict.violations), sep="\n    ", file=sys.stderr, flush=True)
    found = [violation for violation in outcome.verdict.violations if violation.invariant in bug.caught_by]
    return "; ".join(f"{violation.invariant}: {violation.count} {violation.sentence}" for violation in found)


def _by_tests(bug: Planted, folder: Path) -> str:
    code = copy_tree(folder / "code", bug.patch)
    shutil.copytree(ROOT / "tests", code / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", code)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", bug.layer],
        cwd=code, capture_output=True, text=True, timeout=TESTS_WITHIN_S, check=False,
        env={**os.environ, "PYTHONPATH": str(code)},  # Children run with -P and would import the installed Backstop.
    )  # fmt: skip
    if done.returncode not in (0, 1):
        raise AssertionError(f"{bug.name}: pytest could not run\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return failed[0].removeprefix("FAILED ").partition(" - ")[0] if done.returncode == 1 and failed else ""
