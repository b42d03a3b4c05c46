"""The whole system as people start it: it comes up, works, survives a crash, and leaves nothing behind.

The command is that of the wheel, in an environment of its own. It is started in a folder with packages of our names.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backstop.dev.broker import Owned
from backstop.dev.state import DevState, read_state
from tests.support.waiting import wait_until
from tests.unit.backstop.cli.test_own_modules import hostile

ROOT = Path(__file__).resolve().parents[2]
UP_WITHIN_S = 90.0
DOWN_WITHIN_S = 60.0
MARK = "TEST_DEV_FOLDER"
"""In the environment of every process that a test here starts."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"),
]


@dataclass(frozen=True, slots=True)
class Project:
    """A user's folder, with packages of our names, and the `backstop` that is installed beside it."""

    folder: Path
    backstop: str

    @property
    def state(self) -> Path:
        return self.folder / ".backstop"

    def run(self, *arguments: str, within_s: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            arguments, cwd=self.folder, env=environment(self.folder), capture_output=True, text=True,
            timeout=within_s, check=False,
        )  # fmt: skip

    def ask(self, *arguments: str, within_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run the command."""
        return self.run(self.backstop, *arguments, within_s=within_s)


@pytest.fixture
def project(installed: Path, tmp_path: Path) -> Project:
    return Project(hostile(tmp_path / "project"), str(installed / "backstop"))


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Ours without what would point a child at another broker, folder or package."""
    ours = ("BACKSTOP_", "OPENAI_", "KAFKA_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, MARK: str(folder), **more}


def processes_of(folder: Path) -> list[str]:
    """Command lines of all processes that were started for this folder: it is in their environment."""
    mark = f"{MARK}={folder}\0".encode()
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and mark in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@contextmanager
def dev(project: Project, *options: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """`backstop dev` that has come up; killed in the end if the test has not ended it."""
    told = project.folder.parent / "dev.out"
    with told.open("ab") as out:
        process = subprocess.Popen(
            [project.backstop, "dev", "--port", "0", *options],
            cwd=project.folder,
            env=environment(project.folder, **(env or {})),
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: read_state(project.state) or process.poll() is not None, UP_WITHIN_S, "the system to come up",
            poll_s=0.2,
        )  # fmt: skip
        assert process.poll() is None, told.read_text()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def state_of(folder: Path) -> DevState:
    state = read_state(folder)
    assert state is not None
    return state


def interrupt(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGINT)
    return process.wait(DOWN_WITHIN_S)


def shown(project: Project, job_id: str) -> dict[str, Any]:
    done = project.ask("jobs", "show", job_id, "-o", "json")
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def test_a_service_that_knows_only_kafka_gets_its_results_and_nothing_is_left_on_its_broker(
    broker: Owned, project: Project
) -> None:
    with dev(project, env={"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap}) as process:
        state = state_of(project.state)
        assert state.bootstrap == broker.bootstrap
        assert state.topic_prefix.startswith("backstop-dev-")
        example = project.run(
            *(sys.executable, str(ROOT / "examples" / "kafka_upstream.py"), "--jobs", "2"),
            *("--bootstrap", state.bootstrap, "--prefix", state.topic_prefix),
        )
        assert example.returncode == 0, example.stderr
        assert example.stdout.count(" completed: Echo: Say hello") == 2
        assert project.ask("topics", "check").returncode == 0
        second = project.ask("dev")
        assert second.returncode == 2
        assert "already runs" in second.stderr
        assert interrupt(process) == 0
    assert processes_of(project.folder) == []
    assert list(project.state.glob("run-*")) == []
    assert not (project.state / "dev.json").exists()
    listed = project.run(sys.executable, "-c", LIST_TOPICS, broker.bootstrap)
    assert listed.returncode == 0, listed.stderr
    assert state.topic_prefix not in listed.stdout


LIST_TOPICS = """
import asyncio, sys
from aiokafka.admin import AIOKafkaAdminClient
async def run():
    admin = AIOKafkaAdminClient(bootstrap_servers=sys.argv[1])
    await admin.start()
    print(await admin.list_topics())
    await admin.close()
asyncio.run(run())
"""


@pytest.mark.long
def test_a_killed_system_leaves_no_process_and_goes_on_from_what_it_kept(project: Project) -> None:
    with dev(project, "--keep") as process:
        done = project.ask("jobs", "submit", "-m", "gpt-5.2", "-i", "Say hello.", "--job-id", "one", "-w", "-q")
        assert done.returncode == 0, done.stderr
        assert "Echo: Say hello." in done.stdout
        process.kill()
        process.wait()
        wait_until(lambda: not processes_of(project.folder), 15, "all its processes to end", poll_s=0.2)
        assert read_state(project.state) is None, "its address is not handed out any more"
    with dev(project, "--keep") as process:
        assert shown(project, "one")["status"] == "completed"
        other = project.ask("jobs", "submit", "-m", "gpt-5.2", "-i", "Another.", "--job-id", "one")
        assert other.returncode == 1
        assert "already names a job" in other.stderr
        fresh = project.ask("jobs", "submit", "-m", "gpt-5.2", "-i", "Two.", "--job-id", "two", "-w", "-q")
        assert fresh.returncode == 0, fresh.stderr
        assert interrupt(process) == 0
    assert processes_of(project.folder) == []
    refused = project.ask("dev", "--keep", "--partitions", "5")
    assert refused.returncode == 2
    assert "jobs: partition count is 4, wanted 5. Set BACKSTOP_PARTITIONS=4" in refused.stderr
    assert processes_of(project.folder) == []


def test_an_interrupt_while_it_starts_ends_it_and_leaves_nothing(project: Project) -> None:
    process = subprocess.Popen(
        [project.backstop, "dev", "--port", "0"],
        cwd=project.folder,
        env=environment(project.folder),
        start_new_session=True,
    )
    try:
        wait_until(lambda: len(processes_of(project.folder)) > 1, 30, "the first child, which is the broker's")
        assert interrupt(process) == 0
    finally:
        process.kill()
        process.wait()
    assert processes_of(project.folder) == []
    assert list(project.state.glob("run-*")) == []


FAULTS = {
    "base": "demo",
    "rates": {"webhook_lost": 0.2, "webhook_twice": 0.1, "run_stuck_queued": 0.02, "run_stuck_in_progress": 0.03},
}


def test_the_demo_finds_every_invariant_kept_under_its_faults(project: Project) -> None:
    done = project.ask(
        *("demo", "--jobs", "60", "--timeout-s", "25", "--faults", json.dumps(FAULTS), "-o", "json", "-q"),
        within_s=240,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    verdict = json.loads(done.stdout)
    assert verdict["ok"] is True
    assert (verdict["jobs"], verdict["results"], verdict["lost"], verdict["duplicates"]) == (60, 60, 0, 0)
    assert set(verdict["found_by"]) == {"webhook", "poll"}, "some webhooks are lost, so both ways must have been needed"
    assert processes_of(project.folder) == []


@pytest.mark.long
def test_the_demo_works_and_works_again(project: Project) -> None:
    for _ in range(2):
        done = project.ask("demo", "--jobs", "20", "--faults", "calm", "-o", "json", "-q")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["ok"] is True
