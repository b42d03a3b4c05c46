"""Ending processes that are not children, and the watcher that ends them for an owner that is gone."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backstop.dev.broker import ends_with_owner, processes
from tests.support.waiting import wait_until

SLEEP = "import time, sys; print('up', flush=True); time.sleep(300)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


@contextmanager
def running(*command: str, **options) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def test_a_pid_counts_only_with_its_mark_in_the_command_line() -> None:
    with running(sys.executable, "-c", SLEEP, "/state/a/server.properties") as process:
        assert processes.is_running(process.pid, mark="/state/a/server.properties")
        assert not processes.is_running(process.pid, mark="/state/b/server.properties")
        assert not processes.stop(process.pid, mark="/state/b/server.properties")
        assert process.poll() is None  # A pid that now belongs to another program is left alone.


def test_a_zombie_does_not_live() -> None:
    with running(sys.executable, "-c", SLEEP, "mark") as process:
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not processes.is_running(process.pid, mark="mark"), 5, "the process to end")
        assert process.returncode is None  # not collected: it is a zombie, and its pid exists


@pytest.mark.parametrize(("code", "how"), [(SLEEP, signal.SIGTERM), (DEAF, signal.SIGKILL)])
def test_stopping_asks_first_and_then_kills(code: str, how: signal.Signals) -> None:
    with running(sys.executable, "-c", code, "mark") as process:
        assert processes.stop(process.pid, mark="mark", term_timeout_s=0.3 if how is signal.SIGKILL else 10)
        assert process.wait(10) == -how
    assert not processes.stop(process.pid, mark="mark")


def test_a_frozen_process_is_stopped_too() -> None:
    with running(sys.executable, "-c", SLEEP, "mark") as process:
        os.kill(process.pid, signal.SIGSTOP)
        assert processes.stop(process.pid, mark="mark", term_timeout_s=10)
        assert process.wait(10) == -signal.SIGTERM


def watched(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", ends_with_owner.__file__, *arguments)


def test_the_end_of_the_owner_kills_what_is_watched_and_removes_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    command = watched("--wipe", str(folder), "--", sys.executable, "-c", SLEEP, "--", "mark")
    with running(*command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.close()  # as the system does when the owner dies
        assert process.wait(10) == -signal.SIGKILL
        wait_until(lambda: not folder.exists(), 10, "the folder to be removed")


def test_an_owner_that_says_so_lets_the_watcher_go_and_keeps_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    command = watched("--wipe", str(folder), "--", sys.executable, "-c", SLEEP)
    with running(*command, stdin=subprocess.PIPE) as process:
        watcher = wait_until(lambda: children_of(process.pid), 5, "the watcher")[0]
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM
        assert process.stdin is not None
        process.stdin.write(".")
        process.stdin.flush()
        wait_until(lambda: not processes.is_running(watcher, mark=str(folder)), 10, "the watcher to go")
    assert folder.exists()


def test_the_watcher_hands_on_the_exit_code() -> None:
    command = watched("--", sys.executable, "-c", "raise SystemExit(7)")
    assert subprocess.run(command, input=b".", check=False, timeout=30).returncode == 7


def children_of(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]
