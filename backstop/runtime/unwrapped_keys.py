"""Keys that a KMS holds: a command of the operator unwraps them at the start of a process, and no disk has them."""

import os
import shlex
import signal
import subprocess
from typing import Final

from backstop.runtime.errors import ConfigurationError

UNWRAP_TIMEOUT_S: Final = 30.0
OUTPUT_CHARS_MAX: Final = 1 << 20
TOLD_CHARS_MAX: Final = 300
NAME: Final = "BACKSTOP_PAYLOAD_KEYS_COMMAND"


def unwrapped(command: str, wrapped: str) -> str:
    """What `command` prints, given `wrapped` on its standard input: keys as BACKSTOP_PAYLOAD_KEYS has them.

    :raises ConfigurationError: it can't be run, fails, takes too long or prints nothing. The sentence has the end of
        what it wrote to standard error, and nothing of what it printed.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - the operator's own command, as its setting says
            shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            process_group=0,
        )  # fmt: skip
    except (ValueError, OSError, IndexError) as error:
        raise ConfigurationError(f"{NAME} can't be run: {error}") from None
    with process:
        try:
            printed, complaints = process.communicate(wrapped.replace(",", "\n"), UNWRAP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # With the programs that it has started: one that is left would hold the pipes, and this start, open.
            os.killpg(process.pid, signal.SIGKILL)
            raise ConfigurationError(
                f"{NAME} did not end within {UNWRAP_TIMEOUT_S:g} s: does its KMS answer?"
            ) from None
    if process.returncode:
        told = complaints.strip()[-TOLD_CHARS_MAX:] or "it wrote nothing to standard error"
        raise ConfigurationError(f"{NAME} ended with {process.returncode}: {told}")
    if len(printed) > OUTPUT_CHARS_MAX:
        raise ConfigurationError(
            f"{NAME} printed more than {OUTPUT_CHARS_MAX} characters: it must print the keys alone"
        )
    if not printed.strip():
        raise ConfigurationError(f"{NAME} printed nothing: it must print lines of TENANT:KEY")
    return ",".join(printed.split())
