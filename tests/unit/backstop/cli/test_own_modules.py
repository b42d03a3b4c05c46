"""Our child processes import the installed packages, never packages of the same names in the current folder."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
    "packages"
]
OURS = tuple(dict.fromkeys(Path(package).name for package in PACKAGES))
MODULE_RUN = re.compile(rf'(?P<flags>(?:"-[A-Za-z]+",\s*)*)"-m",\s*"(?:{"|".join(OURS)})[."]')


def hostile(folder: Path) -> Path:
    """A user's project with packages named as ours, which end any process that imports them."""
    for name in {*OURS, "backstop"}:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise SystemExit('imported {name} of the current folder')\n")
    return folder


@pytest.mark.parametrize(
    "arguments", [("backstop.cli", "--help"), ("backstop.cli", "jobs", "--help"), ("backstop.simulator", "--help")]
)
def test_a_child_started_in_a_folder_with_packages_of_our_names_imports_ours(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", *arguments], cwd=hostile(tmp_path), env={**os.environ, "NO_COLOR": "1"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "sage: " in done.stdout


def test_every_command_line_that_starts_a_module_of_ours_keeps_the_current_folder_out() -> None:
    folders = (*(ROOT / package for package in PACKAGES), ROOT / "tests", ROOT / "bench", ROOT / "examples")
    found = [
        (path, match)
        for folder in folders
        for path in folder.rglob("*.py")
        if '"-m"' in (text := path.read_text())  # The expression takes a hundred times as long.
        for match in MODULE_RUN.finditer(text)
    ]
    assert len(found) > 10
    assert [f"{path}: {match[0]}" for path, match in found if '"-P"' not in match["flags"]] == []
