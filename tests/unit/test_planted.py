"""The planted bugs fit the code as it is. The cheap ones are planted by `make test-long`, all by `make planted`."""

import subprocess
from pathlib import Path

import pytest

from tests.planted import CHEAP, HERE, LONG, Planted
from tests.planted.planting import caught
from tests.torture.tree import ROOT


@pytest.mark.parametrize("patch", sorted(HERE.glob("*.patch")), ids=lambda patch: patch.stem)
def test_a_patch_applies_and_says_what_it_does(patch: Path) -> None:
    done = subprocess.run(
        ["git", "apply", "--check", str(patch)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert patch.read_text().splitlines()[0].endswith(".")


def test_each_patch_has_a_layer_and_each_layer_a_patch() -> None:
    assert {bug.name for bug in (*CHEAP, *LONG)} == {patch.stem for patch in HERE.glob("*.patch")}


@pytest.mark.long
@pytest.mark.parametrize("bug", CHEAP, ids=lambda bug: bug.name)
def test_a_cheap_bug_is_caught(bug: Planted, tmp_path: Path) -> None:
    assert caught(bug, tmp_path, lambda _kill: None)
