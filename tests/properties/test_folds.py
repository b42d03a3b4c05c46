"""Both folds under everything that may happen to them: I1 to I5 and I9 after each fact, and what the runs met."""

from pathlib import Path

from tests.properties.coverage import Coverage
from tests.properties.machine import run

MUST_MEET = Path(__file__).with_name("must_meet.txt")
"""States, transitions, reasons to ignore and outputs, one a line; what the generator must reach in one run."""


def test_the_invariants_hold_whatever_happens_and_the_runs_meet_what_they_must() -> None:
    coverage = Coverage()
    run(coverage)
    met = coverage.met()
    missed = [line for line in MUST_MEET.read_text().splitlines() if line not in met]
    assert not missed, f"the generator never met: {missed}"


def test_the_list_of_what_must_be_met_names_every_state_and_every_reason_to_ignore() -> None:
    listed = MUST_MEET.read_text().splitlines()
    assert listed == sorted(set(listed))
    states = {
        "jobs": ("absent", "active", "backing_off", "finished"),
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
