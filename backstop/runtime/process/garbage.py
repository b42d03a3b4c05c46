"""Python's garbage collector and the C library's allocator, told what a process that runs for months is like."""

import ctypes
import gc

YOUNG_OBJECTS_MAX = 10_000
"""New objects before the youngest are looked through (Python's own: 700). A few MiB at most wait for it."""

LARGE_BYTES = 1 << 20
_M_MMAP_THRESHOLD = -3
"""Of glibc's `malloc.h`."""


def return_large_blocks() -> None:
    """Have the C library give blocks of a megabyte and more back to the system when they are freed.

    glibc raises that size by itself to that of the largest block it saw freed, and keeps smaller ones: after one body of 20 MB a process held
    on to every later one (96 MiB instead of 57 for a create). Where there is no glibc, nothing changes.
    """
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
    except (OSError, AttributeError):
        return


def settle_garbage_collector() -> None:
    """Leave what the imports made out of every later collection. To be called once, when all is imported and nothing runs yet.

    Modules, models and compiled schemas are some hundred thousand objects that live as long as the process. A full collection looks through
    all of them again and again: measured in a worker at 50 jobs/s, a quarter of its time, and pauses of several hundred milliseconds.
    """
    return_large_blocks()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX, 20, 20)
