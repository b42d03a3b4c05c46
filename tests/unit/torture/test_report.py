"""What a report says of its own run."""

import pytest

from tests.torture.__main__ import _arguments
from tests.torture.report import command


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "make torture JOBS=500 MINUTES=1.5 SEED=1"),
        (["--jobs", "900", "--keep", "there", "--report", "r.md"], "make torture JOBS=900 MINUTES=1.5 SEED=1"),
        (
            ["--calm", "--no-hedges", "--faults", "demo", "--timeout", "30"],
            'make torture JOBS=500 MINUTES=1.5 SEED=1 TORTURE="--timeout 30 --faults demo --no-hedges --calm"',
        ),
    ],
)
def test_the_call_that_a_report_names_repeats_the_run(given: list[str], told: str) -> None:
    assert command(vars(_arguments(given)), vars(_arguments([]))) == told
