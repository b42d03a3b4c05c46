"""Processes that may not be children of this one: whether one lives, whether it is the expected one, how to stop it."""

import math
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

POLL_S = 0.05
TERM_TIMEOUT_S = 15.0
KILL_TIMEOUT_S = 10.0


def capture(
    command: Sequence[str], timeout_s: float, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; returns output and exit code. Raises OSError, subprocess.TimeoutExpired."""
    return subprocess.run(  # noqa: S603 - no shell; each command is put together here in backstop/runtime/broker
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
        env=None if environment is None else dict(environment),
    )


def is_running(pid: int, *, mark: str) -> bool:
    """Whether `pid` lives and has `mark` in its command line, which detects a reused pid.

    A zombie (ended, not yet reaped by its parent) does not count as alive.
    """
    command = _command_line(pid)
    return command is not None and mark in command


def stop(pid: int, *, mark: str, term_timeout_s: float = TERM_TIMEOUT_S) -> bool:
    """SIGTERM, then SIGKILL after `term_timeout_s`; waits for the process's end. False where it was not running."""
    if not is_running(pid, mark=mark):
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)  # a stopped process handles SIGTERM only after SIGCONT
    if until(lambda: not is_running(pid, mark=mark), term_timeout_s):
        return True
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not is_running(pid, mark=mark), KILL_TIMEOUT_S)
    return True


def until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Check every `POLL_S` until `condition` holds; False where it did not within about `timeout_s`."""
    pause = threading.Event()
    for _ in range(math.ceil(timeout_s / POLL_S)):
        if condition():
            return True
        pause.wait(POLL_S)
    return condition()


def _command_line(pid: int) -> str | None:
    folder = Path("/proc") / str(pid)
    if Path("/proc/self/stat").exists():
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            return None if state in {"Z", "X"} else (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            return None
    # No /proc (macOS). `ps` is in every base system there.
    shown = capture(["ps", "-ww", "-o", "stat=,command=", "-p", str(pid)], KILL_TIMEOUT_S).stdout.strip()
    return None if not shown or shown.startswith("Z") else shown
