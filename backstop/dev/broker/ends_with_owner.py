"""Runs a command that dies with its owner, even when the owner is killed with SIGKILL.

    python -I -S ends_with_owner.py [--wipe FOLDER] -- COMMAND ARG...

The owner holds the other end of this program's stdin. The program forks a watcher, then executes the command in its own
place, so that the owner's child is the command itself, with its pid, exit code and signals. One byte on stdin means
"ended as intended", and the watcher exits. The end of stdin means that the owner has died: the watcher kills the
command with SIGKILL and removes FOLDER.

Why not PR_SET_PDEATHSIG: it fires when the *thread* that started the child ends (a broker started from a thread pool
would die with its thread), exists on Linux only, and cannot remove the folder. Imports only the standard library: it is
run by path, in isolated mode, and starts in some 20 ms.
"""

import os
import shutil
import signal
import sys
import threading

POLL_S = 0.02
EXIT_POLLS_MAX = 500  # 10 s at POLL_S: SIGKILL takes longer only on a disk that hangs


def main(arguments: list[str]) -> None:
    """Fork the watcher, then execute the command in place of this process. Never returns."""
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
    """Wait for the owner's byte or end. The command is this process's parent: a reused pid is not, and is not
    killed.
    """
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
    """Close the command's output here: a reader must see its end when the command ends, not when the watcher does."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)


if __name__ == "__main__":
    main(sys.argv[1:])
