"""The end of a process that uses obstore."""

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NATIVE = "obstore"
"""Python knows nothing of its threads: they run on while the interpreter is torn down."""


@contextmanager
def left_at_once() -> Iterator[None]:
    """End the process, with its exit code, as soon as all that is registered for its end has run.

    What follows then is the interpreter's own end. A thread of obstore that asks for the interpreter in that time (an
    answer of the store has just come) is ended by CPython in the middle of Rust's code, and Rust aborts the process:
    exit code 134 instead of 0. To be entered first, so that its function runs last. Without obstore it changes nothing.
    """
    codes: list[int] = []
    atexit.register(_leave, codes)
    try:
        yield
        codes.append(0)
    except SystemExit as ending:
        if ending.code is None or isinstance(ending.code, int):  # else Python prints it
            codes.append(ending.code or 0)
        raise


def _leave(codes: list[int]) -> None:
    if not codes or NATIVE not in sys.modules:
        return
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except (AttributeError, OSError, ValueError):  # none, or closed: Python itself says so, or not
        return
    os._exit(codes[0])
