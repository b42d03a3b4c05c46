"""A block in which nothing can reach the outside: what I8 means by a dry replay, enforced and not promised."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FORBIDDEN = frozenset(
    {
        "socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
        "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork",
    }
)  # fmt: skip
"""Audit events of the interpreter (PEP 578) that open a way out."""


class OutsideForbiddenError(RuntimeError):
    """Ours: code that must be dry tried to reach the outside."""


class _Gate:
    """The hook can't be taken away again, so it is set once and looks whether it is to act."""

    def __init__(self) -> None:
        self.closed = 0
        self.with_webhook = False

    def __call__(self, event: str, _args: tuple[Any, ...]) -> None:
        if self.closed and event in FORBIDDEN:
            raise OutsideForbiddenError(f"{event} in a dry replay")


_gate = _Gate()


@contextmanager
def sealed() -> Iterator[None]:
    """No socket and no process can be opened in this block, by any code of the interpreter, in any thread.

    :raises OutsideForbiddenError: inside, wherever it is tried.
    """
    if not _gate.with_webhook:
        sys.addaudithook(_gate)
        _gate.with_webhook = True
    _gate.closed += 1
    try:
        yield
    finally:
        _gate.closed -= 1
