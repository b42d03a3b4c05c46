"""The page about the long tests says what pytest's own report says."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.support.long_run import Case, Run, page, read_cases

TESTS = """
import pytest

def test_passes():
    pass

def test_fails():
    assert False

@pytest.mark.skip
def test_is_skipped():
    pass

@pytest.fixture
def broken():
    raise OSError

def test_errs(broken):
    pass

def test_records_a_property(record_property):
    record_property("seen", 1)
"""
PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


def test_a_report_is_read_as_pytest_writes_it(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    command += ["-c", str(PYPROJECT), "--rootdir=."]
    done = subprocess.run([*command, "test_it.py"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 1, done.stdout
    assert {case.name: case.outcome for case in read_cases(report)} == {
        "test_it::test_passes": "passed",
        "test_it::test_fails": "failed",
        "test_it::test_is_skipped": "skipped",
        "test_it::test_errs": "failed",
        "test_it::test_records_a_property": "passed",
    }


def test_the_page_has_a_row_about_the_run_and_one_about_each_test_the_slowest_first() -> None:
    cases = (Case("a::quick", "passed", 2.4), Case("b::slow", "failed", 61.0), Case("c::none", "skipped", 0.0))
    text = page(Run(datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "abc1234", "make test-long", 125.0, cases))
    rows = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("| ---")]
    assert rows == [
        "| date | commit | command | passed | failed | skipped | duration |",
        "| 2026-01-02 03:04 UTC | abc1234 | `make test-long` | 1 | 1 | 1 | 2 min 5 s |",
        "| test | outcome | duration |",
        "| `b::slow` | failed | 1 min 1 s |",
        "| `a::quick` | passed | 2 s |",
        "| `c::none` | skipped | 0 s |",
    ]
