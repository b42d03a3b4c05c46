"""Runs a command that dies with its owner, even when the owner is killed with SIGKILL.

    python -I -S leash.py [--wipe FOLDER] -- COMMAND ARG...

The owner holds the other end of this program's stdin. A watcher process is forked first, then this process *becomes*
the command, so that the owner's child is the command itself: its pid, its exit code, its signals. One byte on stdin
says "ended as intended" and lets the watcher go; the end of stdin says that the owner is gone, and the watcher kills the
command with SIGKILL and removes FOLDER.

Why not PR_SET_PDEATHSIG: it fires when the *thread* that started the child ends (a broker started from a thread pool
would die with its thread), exists on Linux only, and cannot remove the folder. Imports the standard library alone: it
runs by path, in the isolated mode, in some 20 ms.
"""

import os
import shutil
import signal
import sys
import threading

POLL_S = 0.02
EXIT_POLLS_MAX = 500  # 10 s at POLL_S: SIGKILL needs no longer, unless the disk hangs


def main(arguments: list[str]) -> None:
    """Fork the watcher, become the command; never returns."""
    wipe = arguments[1] if arguments[0] == "--wipe" else None
    command = arguments[arguments.index("--") + 1 :]
    target = os.getpid()
    if os.fork() == 0:
        # Its own session: a Ctrl-C at the terminal must reach neither the watcher nor the command before the owner.
        os.setsid()
        _let_go_of_the_command_s_output()
        watch(target, wipe)
        os._exit(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.execvp(command[0], command)  # noqa: S606 - becoming the command, without a shell, is what this program is for


def watch(target: int, wipe: str | None) -> None:
    """Wait for the owner's word or end. The command is this process' parent, which is how a reused pid is told."""
    if os.read(0, 1):
        return
    if os.getppid() == target:
        os.kill(target, signal.SIGKILL)
    pause = threading.Event()
    for _ in range(EXIT_POLLS_MAX):
        if os.getppid() != target:
            break
        pause.wait(POLL_S)
    if wipe is not None:
        shutil.rmtree(wipe, ignore_errors=True)


def _let_go_of_the_command_s_output() -> None:
    """Whoever reads the command's output must see its end when the command ends, not when the watcher does."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)


if __name__ == "__main__":
    main(sys.argv[1:])
