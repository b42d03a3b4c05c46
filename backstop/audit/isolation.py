"""A block without access to the outside: enforces the dry replay that I8 requires."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FORBIDDEN = frozenset(
    {
        "socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname",
        "socket.sendto", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork",
    }
)  # fmt: skip
"""The interpreter's audit events (PEP 578) that open a way out."""


class OutsideForbiddenError(RuntimeError):
    """A bug of Backstop: code that must be dry tried to reach the outside."""


class _Gate:
    """The audit hook. It can't be removed, so it is installed once and acts only while `closed` is above 0."""

    def __init__(self) -> None:
        self.closed = 0
        self.installed = False

    def __call__(self, event: str, _args: tuple[Any, ...]) -> None:
        if self.closed and event in FORBIDDEN:
            raise OutsideForbiddenError(f"{event} in a dry replay")


_gate = _Gate()


@contextmanager
def sealed() -> Iterator[None]:
    """No code in any thread of this interpreter can open a socket or start a process during this block.

    :raises OutsideForbiddenError: where code tries.
    """
    if not _gate.installed:
        sys.addaudithook(_gate)
        _gate.installed = True
    _gate.closed += 1
    try:
        yield
    finally:
        _gate.closed -= 1
