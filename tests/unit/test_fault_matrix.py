"""The tests that the fault matrix names are there."""

import re
from pathlib import Path

from backstop.runtime.process.failpoints import Failpoint
from tests.planted import CHEAP, LONG

ROOT = Path(__file__).parents[2]
MATRIX = ROOT / "docs/fault-matrix.md"
NAMED = re.compile(r"`((?:kafka|unit|properties|simulation|replay)/[\w/]+\.py)?(?:::(test_\w+))?`")


def test_every_test_that_the_fault_matrix_names_exists() -> None:
    file, found = "", 0
    for match in NAMED.finditer(MATRIX.read_text()):
        file = match[1] or file
        path = ROOT / "tests" / file
        assert path.is_file(), f"{MATRIX.name} names {file}, which is not there"
        if match[2]:
            assert f"def {match[2]}(" in path.read_text(), f"{MATRIX.name} names {file}::{match[2]}, which is not there"
        found += 1
    assert found > 40


def test_every_failpoint_is_in_the_fault_matrix() -> None:
    text = MATRIX.read_text()
    for name in Failpoint.__args__:  # type: ignore[attr-defined]
        assert f"`{name.partition('.')[2]}`" in text, f"{name} is not in {MATRIX.name}"


def test_every_planted_patch_is_told_of() -> None:
    text = (ROOT / "docs/planted-bugs.md").read_text()
    for bug in (*CHEAP, *LONG):
        assert f"`{bug.name}`" in text, f"docs/planted-bugs.md says nothing of {bug.name}"
