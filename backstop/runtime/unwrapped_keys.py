"""Keys that a KMS holds: a command of the operator unwraps them at the start of a process, and no disk has them."""

import os
import selectors
import shlex
import signal
import subprocess
from typing import Final

from backstop.runtime.errors import ConfigurationError
from backstop.runtime.process.clock import monotonic_s

UNWRAP_TIMEOUT_S: Final = 30.0
OUTPUT_BYTES_MAX: Final = 1 << 20
TOLD_BYTES_MAX: Final = 300
READ_BYTES: Final = 64 << 10
WRITE_BYTES: Final = 4 << 10
"""What a pipe that is ready takes without blocking (`PIPE_BUF`)."""
NAME: Final = "BACKSTOP_PAYLOAD_KEYS_COMMAND"


def unwrapped(command: str, wrapped: str) -> str:
    """What `command` prints, given `wrapped` on its standard input: keys as BACKSTOP_PAYLOAD_KEYS has them.

    :raises ConfigurationError: it can't be run, fails, takes too long, or prints nothing, too much or no text. The
        sentence has the end of what it wrote to standard error, and nothing of what it printed.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - the operator's own command, as its setting says
            shlex.split(command), bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            process_group=0,
        )  # fmt: skip
    except (ValueError, OSError, IndexError) as error:
        raise ConfigurationError(f"{NAME} can't be run: {error}") from None
    with process:
        try:
            printed, complaints = _heard(process, wrapped.replace(",", "\n").encode(errors="surrogateescape"))
        except BaseException:
            # With the programs that it has started: one that is left would hold the pipes, and this start, open.
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        told = " ".join(complaints.decode(errors="replace").split()) or "it wrote nothing to standard error"
        raise ConfigurationError(f"{NAME} ended with {process.returncode}: {told}")
    try:
        text = printed.decode()
    except UnicodeDecodeError:
        raise ConfigurationError(
            f"{NAME} printed bytes that are no text in UTF-8: it must print lines of TENANT:KEY"
        ) from None
    if not text.strip():
        raise ConfigurationError(f"{NAME} printed nothing: it must print lines of TENANT:KEY")
    return ",".join(text.split())


def _heard(process: subprocess.Popen[bytes], given: bytes) -> tuple[bytes, bytes]:
    """What it printed, and the end of what it wrote to standard error, once it has ended.

    :raises ConfigurationError: it takes too long, or prints too much.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    ends_s = monotonic_s() + UNWRAP_TIMEOUT_S
    late = ConfigurationError(f"{NAME} did not end within {UNWRAP_TIMEOUT_S:g} s: does its KMS answer?")
    printed, complaints = bytearray(), b""
    with selectors.DefaultSelector() as pipes:
        pipes.register(process.stdin, selectors.EVENT_WRITE)
        pipes.register(process.stdout, selectors.EVENT_READ)
        pipes.register(process.stderr, selectors.EVENT_READ)
        while pipes.get_map():
            left_s = ends_s - monotonic_s()
            ready = pipes.select(left_s) if left_s > 0 else []
            if not ready:
                raise late
            for pipe, _ in ready:
                if pipe.fileobj is process.stdin:
                    more = given = _written(pipe.fd, given)
                else:
                    more = os.read(pipe.fd, READ_BYTES)
                    if pipe.fileobj is process.stdout:
                        printed += more
                    else:
                        complaints = (complaints + more)[-TOLD_BYTES_MAX:]
                if not more:
                    pipes.unregister(pipe.fileobj)
                    if pipe.fileobj is process.stdin:
                        process.stdin.close()  # the command sees the end of its input
            if len(printed) > OUTPUT_BYTES_MAX:
                raise ConfigurationError(
                    f"{NAME} printed more than {OUTPUT_BYTES_MAX} bytes: it must print the keys alone"
                )
    try:
        process.wait(max(0.0, ends_s - monotonic_s()))
    except subprocess.TimeoutExpired:
        raise late from None
    return bytes(printed), complaints


def _written(pipe: int, given: bytes) -> bytes:
    """What is left of `given`; nothing, if the command reads no more."""
    try:
        return given[os.write(pipe, given[:WRITE_BYTES]) :]
    except BrokenPipeError:
        return b""
