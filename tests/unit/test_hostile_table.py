"""The tests that the table of attacks and clients names are there, and each suite of attacks is in it."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TABLE = TESTS / "hostile/README.md"
NAMED = re.compile(r"`([\w/]+\.py)?::(test_\w+)`")
ABOUT_THE_TOOLS = {"test_pauses.py"}


def named() -> list[tuple[str, str]]:
    file, found = "", []
    for match in NAMED.finditer(TABLE.read_text()):
        file = match[1] or file
        found.append((file, match[2]))
    return found


def test_every_test_that_the_table_names_exists() -> None:
    tests = named()
    assert len(tests) > 60
    for file, test in tests:
        assert f"def {test}(" in (TESTS / file).read_text(), f"{TABLE.name} names {file}::{test}, which is not there"


def test_every_suite_of_attacks_is_in_the_table() -> None:
    suites = {path.name for path in (TESTS / "hostile").glob("test_*.py")} - ABOUT_THE_TOOLS
    assert suites == {Path(file).name for file, _ in named() if file.startswith("hostile/")}
