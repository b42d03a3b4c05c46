"""A session of the suite that runs a whole system leaves no process, no port and no folder behind, however it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from backstop.cli.interrupts import INTERRUPTED
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
UP_WITHIN_S = 180.0
GONE_WITHIN_S = 60.0
MARK = "BACKSTOP_LEFT_RUNNING_TEST"
"""In the environment of every process of such a session."""

PORTS_MIN = 4
"""The broker's, and those of serve, worker, projection and simulator, of which some may be shut at a moment."""

SESSION = """
import json, os
from pathlib import Path

from backstop.dev.system import Shape
from tests.kafka.held import held
from tests.support.waiting import wait_until

HERE = Path(os.environ["{mark}"])


def test_holds_a_system(tmp_path: Path) -> None:
    with held(Shape(folder=tmp_path / "system", environment=os.environ, port=0, time_scale=10)) as system:
        part = HERE / "up.part"
        part.write_text(json.dumps([system.url, system.simulator_url]))
        part.rename(HERE / "up")
        wait_until(lambda: (HERE / "go").exists(), 120, "the word to end")
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"),
]


@pytest.mark.long
@pytest.mark.parametrize("how", ["is killed", "ends", "is interrupted"])
def test_a_session_with_a_system_leaves_nothing_running(tmp_path: Path, how: str) -> None:
    here, scratch = tmp_path / "here", tmp_path / "scratch"
    here.mkdir()
    scratch.mkdir()
    inner = here / "test_session.py"
    inner.write_text(SESSION.format(mark=MARK))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BACKSTOP_", "PYTEST_"))}
    environment = {**kept, MARK: str(here), "TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(here), str(inner)]
    with (tmp_path / "said").open("wb") as said:
        session = subprocess.Popen(command, cwd=here, env=environment, stdout=said, stderr=said, start_new_session=True)
    try:
        wait_until(lambda: (here / "up").exists() or session.poll() is not None, UP_WITHIN_S, "the system", poll_s=0.2)
        assert session.poll() is None, (tmp_path / "said").read_text()
        urls = json.loads((here / "up").read_text())
        pids = processes_of(here)
        ports = listening(pids)
        assert len(pids) > len(urls)
        assert len(ports) >= PORTS_MIN
        match how:
            case "ends":
                (here / "go").touch()
                assert session.wait(GONE_WITHIN_S) == 0, (tmp_path / "said").read_text()
            case "is killed":
                session.kill()
                session.wait(GONE_WITHIN_S)
            case _:
                os.killpg(session.pid, signal.SIGINT)  # as a terminal does
                assert session.wait(GONE_WITHIN_S) in (pytest.ExitCode.INTERRUPTED, INTERRUPTED)
    finally:
        session.kill()
        session.wait()
    wait_until(lambda: not processes_of(here), GONE_WITHIN_S, "the end of every process", poll_s=0.2)
    assert [port for port in ports if not can_be_had(port)] == []
    # Pytest alone keeps the folders of its last sessions.
    assert [path.name for path in scratch.iterdir() if not path.name.startswith("pytest-of-")] == []


def processes_of(here: Path) -> list[int]:
    """All processes that were started for this session: it is in their environment."""
    mark = f"{MARK}={here}\0".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def listening(pids: list[int]) -> set[int]:
    """The TCP ports at which these processes listen."""
    inodes: set[str] = set()
    for pid in pids:
        try:
            inodes |= {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
    found: set[int] = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENS and f"socket:[{fields[9]}]" in inodes:
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


LISTENS = "0A"


def can_be_had(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        probe.listen()
        return True
