"""The whole system as people start it: it comes up, works, survives a crash, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backstop.dev.broker import Owned
from backstop.dev.state import DevState, read_state
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
BACKSTOP = (sys.executable, "-P", "-m", "backstop.cli")
UP_WITHIN_S = 90.0
DOWN_WITHIN_S = 60.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"),
]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Ours without what would point a child at another broker or folder."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BACKSTOP_", "OPENAI_")) and name != "KAFKA_BOOTSTRAP_SERVERS"
    }
    return {**kept, "BACKSTOP_STATE_DIR": str(folder), **more}


def run(folder: Path, *arguments: str, within_s: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=ROOT, env=environment(folder), capture_output=True, text=True, timeout=within_s, check=False
    )


def processes_of(folder: Path) -> list[str]:
    """Command lines of all processes that were started for this folder: it is in their environment."""
    mark = f"BACKSTOP_STATE_DIR={folder}\0".encode()
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and mark in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@contextmanager
def dev(folder: Path, *options: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """`backstop dev` that has come up; killed in the end if the test has not ended it."""
    with (folder.parent / "dev.out").open("ab") as out:
        process = subprocess.Popen(
            [*BACKSTOP, "dev", "--port", "0", *options],
            cwd=ROOT,
            env=environment(folder, **(env or {})),
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: read_state(folder) or process.poll() is not None, UP_WITHIN_S, "the system to come up", poll_s=0.2
        )
        assert process.poll() is None, (folder.parent / "dev.out").read_text()
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


def shown(folder: Path, job_id: str) -> dict[str, Any]:
    done = run(folder, *BACKSTOP, "jobs", "show", job_id, "-o", "json")
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def test_a_service_that_knows_only_kafka_gets_its_results_and_nothing_is_left_on_its_broker(
    broker: Owned, tmp_path: Path
) -> None:
    folder = tmp_path / "state"
    with dev(folder, env={"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap}) as process:
        state = state_of(folder)
        assert state.bootstrap == broker.bootstrap
        assert state.topic_prefix.startswith("backstop-dev-")
        example = run(
            folder,
            *(sys.executable, "examples/kafka_upstream.py", "--jobs", "2"),
            *("--bootstrap", state.bootstrap, "--prefix", state.topic_prefix),
        )
        assert example.returncode == 0, example.stderr
        assert example.stdout.count(" completed: Echo: Say hello") == 2
        assert run(folder, *BACKSTOP, "topics", "check").returncode == 0
        second = run(folder, *BACKSTOP, "dev")
        assert second.returncode == 2
        assert "already runs" in second.stderr
        assert interrupt(process) == 0
    assert processes_of(folder) == []
    assert list(folder.glob("run-*")) == []
    assert not (folder / "dev.json").exists()
    listed = run(folder, sys.executable, "-c", LIST_TOPICS, broker.bootstrap)
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


def test_a_killed_system_leaves_no_process_and_goes_on_from_what_it_kept(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with dev(folder, "--keep") as process:
        done = run(
            folder, *BACKSTOP, "jobs", "submit", "-m", "gpt-5.2", "-i", "Say hello.", "--job-id", "one", "-w", "-q"
        )
        assert done.returncode == 0, done.stderr
        assert "Echo: Say hello." in done.stdout
        process.kill()
        process.wait()
        wait_until(lambda: not processes_of(folder), 15, "all its processes to end", poll_s=0.2)
        assert read_state(folder) is None, "its address is not handed out any more"
    with dev(folder, "--keep") as process:
        assert shown(folder, "one")["status"] == "completed"
        other = run(folder, *BACKSTOP, "jobs", "submit", "-m", "gpt-5.2", "-i", "Another.", "--job-id", "one")
        assert other.returncode == 1
        assert "already names a job" in other.stderr
        fresh = run(folder, *BACKSTOP, "jobs", "submit", "-m", "gpt-5.2", "-i", "Two.", "--job-id", "two", "-w", "-q")
        assert fresh.returncode == 0, fresh.stderr
        assert interrupt(process) == 0
    assert processes_of(folder) == []
    refused = run(folder, *BACKSTOP, "dev", "--keep", "--partitions", "5")
    assert refused.returncode == 2
    assert "jobs: partition count is 4, wanted 5. Set BACKSTOP_PARTITIONS=4" in refused.stderr
    assert processes_of(folder) == []


def test_an_interrupt_while_it_starts_ends_it_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    process = subprocess.Popen(
        [*BACKSTOP, "dev", "--port", "0"], cwd=ROOT, env=environment(folder), start_new_session=True
    )
    try:
        wait_until(lambda: len(processes_of(folder)) > 1, 30, "the first child, which is the broker's")
        assert interrupt(process) == 0
    finally:
        process.kill()
        process.wait()
    assert processes_of(folder) == []
    assert list(folder.glob("run-*")) == []


FAULTS = {
    "base": "demo",
    "rates": {"webhook_lost": 0.2, "webhook_twice": 0.1, "run_stuck_queued": 0.02, "run_stuck_in_progress": 0.03},
}


def test_the_demo_finds_every_invariant_kept_under_its_faults(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        *(*BACKSTOP, "demo", "--jobs", "60", "--timeout-s", "25", "--faults", json.dumps(FAULTS), "-o", "json", "-q"),
        within_s=240,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    verdict = json.loads(done.stdout)
    assert verdict["ok"] is True
    assert (verdict["jobs"], verdict["results"], verdict["lost"], verdict["duplicates"]) == (60, 60, 0, 0)
    assert set(verdict["found_by"]) == {"webhook", "poll"}, "some webhooks are lost, so both ways must have been needed"
    assert processes_of(tmp_path) == []
