"""A new member of a closed set is reported wherever it must be decided: by mypy, or by a test.

A copy of the tree gets one new member a set. mypy and the cheap comparisons then run on the copy, once for all sets.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from backstop.outgoing import deliveries
from backstop.readmodel import waiting, why
from schemas import base, statuses, webhook_endpoints
from streams.fold import job, response
from streams.policy import lanes, retry
from streams.workers import metrics
from tests.unit import test_closed_sets

ROOT: Final = Path(__file__).parents[2]
LEFT_OUT: Final = shutil.ignore_patterns(
    ".git", ".venv", ".backstop", "node_modules", "__pycache__", ".*_cache", ".hypothesis", "replay", "*.png"
)
ADDED: Final[dict[str, tuple[ModuleType, str]]] = {
    "zz_outcome": (statuses, "JobOutcome"),
    "zz_open_job": (statuses, "OpenJobStatus"),
    "zz_open_response": (statuses, "OpenResponseStatus"),
    "zz_end_response": (statuses, "EndResponseStatus"),
    "zz_given_up": (statuses, "GivenUpStatus"),
    "zz_seen": (statuses, "SeenOutcome"),
    "zz_cause": (base, "Cause"),
    "zz_found_by": (base, "FoundBy"),
    "zz_event": (webhook_endpoints, "EventType"),
}
"""Member → where the set is declared, and its name."""

MYPY: Final[dict[str, tuple[ModuleType, ...]]] = {
    "zz_outcome": (statuses,),
    "zz_open_job": (statuses,),
    "zz_end_response": (job, deliveries),
    "zz_given_up": (job,),
    "zz_seen": (response,),
    "zz_cause": (lanes, metrics, retry, waiting, why),
}
"""Member → modules that mypy must report.

`statuses` decides which status the Responses API shows, and on which the sweep waits.
"""

TESTS: Final = (
    test_closed_sets.test_the_page_names_each_status_and_knows_which_are_open,
    test_closed_sets.test_other_tables_are_another_version_of_the_read_model,
    test_closed_sets.test_the_simulator_knows_each_status_of_a_response,
    test_closed_sets.test_each_end_of_a_response_has_an_event_type_and_each_event_type_an_end,
    test_closed_sets.test_the_figures_count_each_way_to_find_an_end,
    test_closed_sets.test_the_documents_name_each_outcome,
)
"""Comparisons that must fail: the page, the tables' version, the witness, outgoing webhooks, figures, README."""

SEEN_BY_SQL: Final = (
    f"{test_closed_sets.test_the_sweep_sees_each_open_status_that_does_not_move.__name__}[zz_open_job]",
    f"{test_closed_sets.test_a_row_of_each_outcome_is_final.__name__}[zz_outcome]",
)
"""Tests that must pass. SQL is made from the sets: I5's sweep sees a new status, the trigger guards a new outcome."""


def path_of(module: ModuleType, root: Path) -> Path:
    assert module.__file__ is not None
    return root / Path(module.__file__).relative_to(ROOT)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree, with one more member in each set."""
    root = tmp_path_factory.mktemp("grown") / "tree"
    shutil.copytree(ROOT, root, ignore=LEFT_OUT)
    if (ROOT / ".mypy_cache").exists():  # A third of the time; the answer is the same without it.
        shutil.copytree(ROOT / ".mypy_cache", root / ".mypy_cache")
    for member, (module, name) in ADDED.items():
        file = path_of(module, root)
        text, count = re.subn(
            rf"^({name} = Literal\[[^\]]*)\]", rf'\1, "{member}"]', file.read_text(), flags=re.MULTILINE
        )
        assert count == 1, f"{name} is declared {count} times in {file}"
        file.write_text(text)
    return root


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.long
def test_mypy_reports_each_place_that_lacks_a_new_member(grown: Path) -> None:
    told = subprocess.run([sys.executable, "-m", "mypy"], cwd=grown, capture_output=True, text=True, check=False).stdout
    reported = {
        (member, str(path_of(module, Path())))
        for member, modules in MYPY.items()
        for module in modules
        if re.search(rf"^{re.escape(str(path_of(module, Path())))}:\d+: error: .*'{member}'", told, re.MULTILINE)
    }
    assert reported == {
        (member, str(path_of(module, Path()))) for member, modules in MYPY.items() for module in modules
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.long
def test_a_comparison_fails_wherever_mypy_does_not_poll(grown: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", "-p", "no:cacheprovider"]
    file = path_of(test_closed_sets, Path())
    told = subprocess.run([*command, str(file)], cwd=grown, capture_output=True, text=True, check=False).stdout
    failed = set(re.findall(r"^FAILED \S+::(\w+)", told, re.MULTILINE))
    assert {test.__name__ for test in TESTS} <= failed
    passed = set(re.findall(r"^PASSED \S+::(\S+)", told, re.MULTILINE))
    assert set(SEEN_BY_SQL) <= passed
