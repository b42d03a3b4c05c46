"""`make test-long`: runs every test that is marked `long`, and writes a page about the run.

The page holds the last run only. It is written for every outcome, from pytest's report. The developer commits it.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Case:
    """A test, by its place in the report."""

    name: str
    outcome: str
    took_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has ended."""

    at: datetime
    commit: str
    command: str
    took_s: float
    cases: tuple[Case, ...]


def read_cases(report: Path) -> tuple[Case, ...]:
    """The tests of a JUnit report, as pytest writes it."""
    return tuple(
        Case(f"{case.get('classname', '')}::{case.get('name', '')}", _outcome(case), float(case.get("time", "0")))
        for case in ET.parse(report).iter("testcase")
    )


def _outcome(case: ET.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


def page(run: Run) -> str:
    """The page: one row about the run, one about each test, the slowest first."""
    counts = Counter(case.outcome for case in run.cases)
    tested = (
        f"{run.at:%Y-%m-%d %H:%M} UTC", run.commit, f"`{run.command}`",
        *(str(counts[outcome]) for outcome in ("passed", "failed", "skipped")), _duration(run.took_s),
    )  # fmt: skip
    slowest_first = sorted(run.cases, key=lambda case: (-case.took_s, case.name))
    return "\n".join(
        [
            "# The last run of the long tests",
            "",
            "`make test-long` runs them and writes this page; the workflow `nightly` does so every night.",
            "",
            *_table(("date", "commit", "command", "passed", "failed", "skipped", "duration"), [tested]),
            "",
            *_table(
                ("test", "outcome", "duration"),
                [(f"`{case.name}`", case.outcome, _duration(case.took_s)) for case in slowest_first],
            ),
            "",
        ]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _duration(took_s: float) -> str:
    minutes, seconds = divmod(round(took_s), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def commit() -> str:
    """The commit that was tested; with a note where files differ from it."""
    revision = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return f"{revision} and changes" if changed else revision


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.long_run", description=__doc__)
    parser.add_argument("--page", type=Path, required=True, help="the page to write")
    parser.add_argument("pytest", nargs="*", help="further arguments for pytest")
    given = parser.parse_args()
    report = ROOT / ".backstop" / "tests-long.xml"
    report.unlink(missing_ok=True)
    more = [*given.pytest, "--durations=15", f"--junitxml={report}"]
    tested, at, began_s = commit(), datetime.now(UTC), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "long", *more],
        cwd=ROOT, env={**os.environ, "BACKSTOP_TEST_SEARCH": "1"}, check=False,
    )  # fmt: skip
    took_s = time.monotonic() - began_s
    if report.exists():
        command = shlex.join(["make", "test-long", *([f"PYTEST={shlex.join(given.pytest)}"] if given.pytest else [])])
        given.page.write_text(page(Run(at, tested, command, took_s, read_cases(report))))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
