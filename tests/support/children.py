"""Processes of a test: their output goes to a file, and they end with the block."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.torture.tree import ROOT

BACKSTOP = ("-P", "-m", "backstop.cli")
END_WITHIN_S = 10


@contextmanager
def child(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """Python with these arguments; killed at the end, if it still lives, also where it is frozen."""
    with log.open("ab") as out:
        process = subprocess.Popen([sys.executable, *arguments], env=environment, cwd=ROOT, stdout=out, stderr=out)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait(END_WITHIN_S)
