"""Both folds under any order of events: I1 to I5 and I9 hold after each fact, and the runs meet all listed states."""

from pathlib import Path

import pytest

from tests.properties.coverage import Coverage
from tests.properties.machine import EXAMPLES, run

MUST_MEET = Path(__file__).with_name("must_meet.txt")
"""States, transitions, reasons to ignore and outputs that the generator must reach, one a line."""

TIMEOUT_S = 300 + EXAMPLES
"""Enough for a nightly run, too."""

FEW = 100
"""Examples of a run of the short form."""

EXAMPLES_MAX = 6 * EXAMPLES
"""A line that so many miss shows a fault of the generator."""

TRY_FIRST = (0, 1, 14)
"""Runs that met every line between them when this was written; others come after them as they are needed."""


def test_the_invariants_hold_whatever_happens() -> None:
    run(Coverage(), examples=FEW)


@pytest.mark.long
@pytest.mark.parametrize("examples", [FEW, EXAMPLES], ids=["few", "many"])
@pytest.mark.timeout(TIMEOUT_S)
def test_the_invariants_hold_whatever_happens_and_the_runs_meet_what_they_must(examples: int) -> None:
    coverage, missed = Coverage(), MUST_MEET.read_text().splitlines()
    for nth in (*TRY_FIRST, *(nth for nth in range(EXAMPLES_MAX // examples) if nth not in TRY_FIRST)):
        run(coverage, examples=examples, nth=nth)
        met = coverage.met()
        missed = [line for line in missed if line not in met]
        if not missed:
            return
    raise AssertionError(f"the generator never met: {missed}")


def test_the_list_of_what_must_be_met_names_every_state_and_every_reason_to_ignore() -> None:
    listed = MUST_MEET.read_text().splitlines()
    assert listed == sorted(set(listed))
    states = {
        "jobs": ("absent", "waiting", "active", "backing_off", "finished"),
        "responses": ("absent", "unclaimed", "running", "ended"),
    }
    for log, kinds in states.items():
        assert {f"{log}: {kind}" for kind in kinds} <= set(listed)
    reasons = {
        "jobs": ("conflict", "duplicate", "impossible", "late", "stale", "unknown_key"),
        "responses": ("duplicate", "late", "stale", "unknown_key"),
    }
    for log, names in reasons.items():
        for name in names:
            assert any(line.startswith(f"{log}: {name} ") for line in listed), f"{log}: {name}"
