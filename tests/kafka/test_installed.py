"""Backstop from its wheel, in a folder with packages of the same names and no checkout: `dev` and `demo` work."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from backstop.dev.state import read_state
from tests.support.docker_context import copy_context
from tests.support.installed import build_wheel, install_wheel
from tests.support.waiting import wait_until
from tests.unit.backstop.cli.test_own_modules import hostile

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def backstop(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The command of the wheel that the image's build makes, in an environment of its own."""
    folder = tmp_path_factory.mktemp("installed")
    source = copy_context(ROOT, ROOT / "deploy" / "Dockerfile.dockerignore", folder / "source")
    return str(install_wheel(build_wheel(source, folder / "wheels"), folder / "venv") / "backstop")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return hostile(tmp_path / "project")


def environment() -> dict[str, str]:
    ours = ("BACKSTOP_", "OPENAI_", "KAFKA_", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def test_dev_comes_up_does_a_job_and_ends(backstop: str, project: Path) -> None:
    state = project / ".backstop"
    with (project / "dev.out").open("wb") as out:
        process = subprocess.Popen(
            [backstop, "dev", "--port", "0"],
            cwd=project,
            env=environment(),
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        wait_until(lambda: read_state(state) or process.poll() is not None, 300, "dev to come up", poll_s=0.5)
        assert process.poll() is None, (project / "dev.out").read_text()
        done = subprocess.run(
            [backstop, "jobs", "submit", "-m", "gpt-5.2", "-i", "Say hello.", "-w", "-q"],
            cwd=project, env=environment(), capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Echo: Say hello." in done.stdout
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0, (project / "dev.out").read_text()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.long)])
def test_the_demo_works_and_works_again(backstop: str, project: Path, times: int) -> None:
    for _ in range(times):
        done = subprocess.run(
            [backstop, "demo", "--jobs", "20", "--faults", "calm", "-o", "json", "-q"],
            cwd=project, env=environment(), capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["ok"] is True
