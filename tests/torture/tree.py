"""The product in a folder of its own: what runs can't change under a run, and a bug can be planted in it."""

import shutil
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
PACKAGES = (*WHEEL["packages"], "deploy")


class PatchError(AssertionError):
    """A planted bug does not fit the code any more: plant it anew."""


def copy_tree(into: Path, patch: Path | None = None) -> Path:
    """The packages as they stand, and `patch` applied.

    :raises PatchError: it does not apply.
    """
    into.mkdir(parents=True)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, into / package, ignore=shutil.ignore_patterns("__pycache__"))
    if patch is not None:
        done = subprocess.run(
            ["git", "apply", "-p1", str(patch.resolve())], cwd=into, capture_output=True, text=True, check=False,
            env={"PATH": "/usr/bin:/bin", "GIT_CEILING_DIRECTORIES": str(into.parent)},
        )  # fmt: skip
        if done.returncode != 0:
            raise PatchError(f"{patch.name}: {done.stderr.strip()}")
    return into
