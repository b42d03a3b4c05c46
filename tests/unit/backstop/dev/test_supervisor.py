"""A tree of real processes: started in order, watched, ended in reverse, and never outliving its supervisor."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from backstop.dev.supervisor import Program, StartError, Supervisor
from tests.support.waiting import eventually, wait_until

MARK_AND_WAIT = """
import pathlib, signal, sys, time
name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
def note(word):
    with (folder / "order").open("a") as file:
        file.write(f"{word} {name}\\n")
def end(*_):
    note("end")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
note("start")
(folder / f"{name}.up").write_text(str(__import__("os").getpid()))
while True:
    time.sleep(1)
"""


def program(folder: Path, name: str, *needs: str, code: str = MARK_AND_WAIT) -> Program:
    async def ready() -> str | None:
        return None if (folder / f"{name}.up").exists() else "no mark yet"

    environment: Mapping[str, str] = {"PATH": os.environ["PATH"]}
    return Program(name, (sys.executable, "-c", code, name, str(folder)), environment, ready, needs)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False


def order(folder: Path) -> list[str]:
    return (folder / "order").read_text().splitlines()


def test_children_start_after_what_they_need_and_end_before_it(tmp_path: Path) -> None:
    async def run() -> None:
        supervisor = Supervisor([program(tmp_path, "b", "a"), program(tmp_path, "a")], tmp_path / "logs", print)
        await supervisor.start()
        await supervisor.stop()

    asyncio.run(run())
    assert order(tmp_path) == ["start a", "start b", "end b", "end a"]


def test_a_killed_child_is_started_again_and_told_of(tmp_path: Path) -> None:
    told: list[str] = []

    async def run() -> None:
        supervisor = Supervisor([program(tmp_path, "a")], tmp_path / "logs", told.append)
        await supervisor.start()
        try:
            first = supervisor.pid("a")
            assert first is not None
            os.kill(first, signal.SIGKILL)
            await eventually(lambda: order(tmp_path).count("start a") == 2, 10, "the second start")
            assert supervisor.restarts == {"a": 1}
            assert supervisor.pid("a") not in (None, first)
        finally:
            await supervisor.stop()

    asyncio.run(run())
    assert "was killed by signal 9" in told[0]


def test_a_child_that_cannot_start_is_shown_with_its_last_words(tmp_path: Path) -> None:
    async def run() -> None:
        broken = program(tmp_path, "a", code="import sys; sys.exit('no such setting')")
        supervisor = Supervisor([broken, program(tmp_path, "b", "a")], tmp_path / "logs", print)
        try:
            await supervisor.start()
        finally:
            await supervisor.stop()

    with pytest.raises(StartError, match=r"a ended with code 1 before it was ready:\nno such setting"):
        asyncio.run(run())
    assert not (tmp_path / "b.up").exists()


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backstop.dev.supervisor.TERM_TIMEOUT_S", 0.3)
    deaf = MARK_AND_WAIT.replace("signal.signal(signal.SIGTERM, end)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    told: list[str] = []
    pids: list[int] = []

    async def run() -> None:
        supervisor = Supervisor([program(tmp_path, "a", code=deaf)], tmp_path / "logs", told.append)
        await supervisor.start()
        pids.append(supervisor.pid("a") or 0)
        await supervisor.stop()

    asyncio.run(run())
    assert "killing it" in told[0]
    assert not alive(pids[0])


SUPERVISE = """
import asyncio, pathlib, sys
sys.path.insert(0, {root!r})
from tests.unit.backstop.dev.test_supervisor import program
from backstop.dev.supervisor import Supervisor
async def run():
    folder = pathlib.Path({folder!r})
    supervisor = Supervisor([program(folder, "a")], folder / "logs", print)
    await supervisor.start()
    await asyncio.Event().wait()
asyncio.run(run())
"""


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[4])
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISE.format(root=root, folder=str(tmp_path))])
    try:
        pid = int(wait_until((tmp_path / "a.up").read_text, 20, "the child"))
        assert alive(pid)
    finally:
        supervisor.kill()
        supervisor.wait()
    wait_until(lambda: not alive(pid), 10, "the child's end")
