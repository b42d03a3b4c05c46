"""Memory tuning for long-lived processes: the thresholds of Python's garbage collector and of glibc's malloc."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG_OBJECTS_MAX = 10_000
"""New objects before a collection of the youngest generation (Python's default: 700). They hold a few MiB at most."""

LARGE_BYTES = 1 << 20
_M_MMAP_THRESHOLD = -3
"""From glibc's `malloc.h`."""


@contextmanager
def imports_uncollected() -> Iterator[None]:
    """For imports: what they make lives as long as the process, and a collection meanwhile only walks through it.

    Without collections the imports of `worker` take 2.5 s of processor time instead of 3.0, those of `serve` 1.7
    instead of 1.9 (CPython 3.11, the least of seven runs in turns).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def return_large_blocks() -> None:
    """Have malloc return blocks of a megabyte and more to the system when they are freed.

    By default glibc raises this threshold to the largest block freed so far, and keeps smaller ones: after one body of
    20 MB the process kept every later one (96 MiB instead of 57 for a create). Without glibc this does nothing.
    """
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
    except (OSError, AttributeError):
        return


def settle_garbage_collector() -> None:
    """Exclude the objects that imports created from all later collections. Call once, after the imports and before any
    work.

    Modules, models and compiled schemas are some hundred thousand objects that live as long as the process, and every
    full collection visits them: measured in a worker at 50 jobs/s, a quarter of its time, and pauses of several hundred
    milliseconds.
    """
    return_large_blocks()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX, 20, 20)
