"""The image, tested without an engine.

The wheel is built from exactly the files of the build context and installed alone. Each of its commands starts.
"""

import base64
import os
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from pathlib import Path

import pytest

from backstop.cli.main import SUBCOMMANDS
from backstop.dev.broker import docker
from backstop.dev.broker.docker import Engine
from tests.support.docker_context import context
from tests.support.installed import Installed
from tests.support.waiting import wait_until
from tests.unit.backstop.cli.test_own_modules import hostile

ROOT = Path(__file__).resolve().parents[2]
IGNORE = ROOT / "deploy" / "Dockerfile.dockerignore"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
SERVERS = ("serve", "worker", "projection", "outgoing")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def source(installation: Installed) -> Path:
    return installation.source


@pytest.fixture
def wheel(installation: Installed) -> Path:
    return installation.wheel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder in which commands are started. It holds packages of our names, and none of them may be imported."""
    return hostile(tmp_path / "project")


def environment(**more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BACKSTOP_", "KAFKA_", "OPENAI_", "PYTHON"))
    }
    return {**kept, **more}


def test_nothing_of_a_checkout_but_what_the_image_is_made_of_is_sent() -> None:
    sent = context(ROOT, IGNORE)
    assert {path.split("/")[0] for path in sent} == {
        "pyproject.toml", "requirements.lock", "README.md", "LICENSE", "deploy",
        *(package.split("/")[0] for package in PACKAGES),
    }  # fmt: skip
    assert [path for path in sent if path.startswith("deploy/")] == ["deploy/production_requirements.py"]
    assert not [path for path in sent if "/." in f"/{path}" or "__pycache__" in path]


def test_the_lock_can_be_read_from_what_is_sent(source: Path) -> None:
    for part in ("runtime", "build"):
        done = subprocess.run(
            [sys.executable, "deploy/production_requirements.py", part],
            cwd=source,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert "--hash=sha256:" in done.stdout


def test_the_wheel_has_all_that_the_packages_have(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    held = set(zipfile.ZipFile(wheel).namelist())
    assert tracked
    assert sorted(set(tracked) - held) == []
    for package in PACKAGES:
        assert f"{package}/py.typed" in held
    assert {name.split("/")[0] for name in held} == {*PACKAGES, wheel.name.split("-py3")[0] + ".dist-info"}


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as held:
        info = wheel.name.split("-py3")[0] + ".dist-info"
        metadata = held.read(f"{info}/METADATA").decode()
        licence = held.read(f"{info}/licenses/LICENSE").decode()
    head = metadata.partition("\n\n")[0].splitlines()
    assert "Name: backstop-jobs" in head
    assert "License-Expression: Apache-2.0" in head
    assert "Requires-Python: >=3.11" in head
    assert "Provides-Extra: jvm" in head
    assert "Version 2.0, January 2004" in licence


def test_each_list_of_our_packages_is_the_same() -> None:
    assert PYPROJECT["tool"]["mypy"]["packages"][: len(PACKAGES)] == PACKAGES
    assert PYPROJECT["tool"]["importlinter"]["root_packages"] == PACKAGES


EACH_HELPS = """
import sys
from backstop.cli.main import main
names = sys.argv[1:]
for name in names:
    sys.argv = ["backstop", name, "--help"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, name
"""
"""All commands in one process, as each of two dozen would import the same for seconds."""


@pytest.mark.long
def test_every_command_of_the_image_starts_also_where_a_project_has_packages_of_our_names(
    installed: Path, folder: Path
) -> None:
    python = str(installed / "python")
    for command in (
        (str(installed / "backstop"), "serve", "--help"),
        (python, "-P", "-m", "backstop.simulator", "--help"),
        (python, "-P", "-c", EACH_HELPS, *SUBCOMMANDS),
    ):
        done = subprocess.run(
            command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=110, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), command
        assert "sage: " in done.stdout
    assert done.stdout.count("sage: ") == len(SUBCOMMANDS)
    told = subprocess.run(
        [str(installed / "backstop"), "--version"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    assert told.stdout == f"backstop {PYPROJECT['project']['version']}\n"


@pytest.mark.long
def test_every_server_of_the_image_comes_as_far_as_the_broker_and_says_that_none_answers(
    installed: Path, folder: Path
) -> None:
    """Without the page in the image, the imports of `serve` would end it."""
    settings = environment(
        KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1", BACKSTOP_DATA_DIR=str(folder / "data"), BACKSTOP_DEVELOPMENT="true",
        BACKSTOP_PORT="0", OPENAI_API_KEY="sk-none", BACKSTOP_OUTGOING_KEYS=base64.b64encode(bytes(32)).decode(),
        BACKSTOP_WEBHOOK_SECRETS="whsec_" + base64.b64encode(bytes(32)).decode(),
        BACKSTOP_PORT_FILE=str(folder / "port"),
    )  # fmt: skip
    started = {
        name: subprocess.Popen(
            [installed / "backstop", name],
            cwd=folder,
            env=settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in SERVERS
    }
    serve = started.pop("serve")
    try:
        port = wait_until(
            lambda: serve.poll() is not None or (folder / "port").exists(), 400, "the port of serve", poll_s=0.5
        )
        assert port, serve.communicate()
        with urllib.request.urlopen(f"http://127.0.0.1:{(folder / 'port').read_text()}/ui", timeout=60) as page:
            assert "<title>Backstop" in page.read().decode()
        serve.send_signal(signal.SIGTERM)
        assert serve.wait(100) == 0, "without a broker it serves what it can"
        said = {name: process.communicate(timeout=400)[0] for name, process in started.items()}
    finally:
        for process in (serve, *started.values()):
            process.kill()
            process.communicate()
    for name, process in started.items():
        assert "no Kafka broker answers at 127.0.0.1:1" in said[name], said[name]
        assert process.returncode == 2, said[name]


def test_an_engine_is_sent_the_same(tmp_path: Path) -> None:
    engine = docker.find(os.environ)
    if not isinstance(engine, Engine):
        pytest.skip(f"NOT COMPARED with what a Docker engine is sent: {engine.reason}")
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM scratch\nCOPY . /\n")
    shutil.copy(IGNORE, tmp_path / "Dockerfile.dockerignore")
    done = subprocess.run(
        [engine.docker, "build", "-q", "-f", str(dockerfile), "-o", str(tmp_path / "sent"), str(ROOT)],
        env={**os.environ, "DOCKER_BUILDKIT": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if done.returncode and "buildx" in done.stderr:
        pytest.skip(f"NOT COMPARED with what a Docker engine is sent: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    sent = tmp_path / "sent"
    assert sorted(path.relative_to(sent).as_posix() for path in sent.rglob("*") if path.is_file()) == sorted(
        context(ROOT, IGNORE)
    )
