"""Backstop as a user has it: the wheel in a virtual environment of its own, with nothing of the checkout."""

import fcntl
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from tests.support.docker_context import copy_context

WITHIN_S = 300
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Installed:
    """What the image is made of: its source, the wheel that its build makes, and the folder of the wheel's commands."""

    source: Path
    wheel: Path
    commands: Path


def installed_once(folder: Path) -> Installed:
    """Made by the first process of a session that wants it; `folder` is the same for all of them."""
    source, wheels, commands = folder / "source", folder / "wheels", folder / "venv" / "bin"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (commands / "backstop").exists():
            copy_context(ROOT, ROOT / "deploy" / "Dockerfile.dockerignore", source)
            install_wheel(build_wheel(source, wheels), folder / "venv")
    (wheel,) = wheels.glob("*.whl")
    return Installed(source, wheel, commands)


def build_wheel(source: Path, into: Path) -> Path:
    """The wheel of a source tree, made as the image makes it."""
    _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--disable-pip-version-check", "--wheel-dir", str(into), str(source))  # fmt: skip
    (wheel,) = into.glob("*.whl")
    return wheel


def install_wheel(wheel: Path, folder: Path) -> Path:
    """A fresh virtual environment with the wheel; returns the folder of its commands.

    What Backstop depends on is borrowed from the environment of the tests by one line of a .pth file: a .pth file that
    stands in a folder named so is not read, so the checkout, which is installed there as editable, stays out.
    """
    _run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    python = folder / "bin" / "python"
    _run(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index",
         "--disable-pip-version-check", str(wheel))  # fmt: skip
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
