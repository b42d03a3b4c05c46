"""Python's garbage collector, told what a process that runs for months is like."""

import gc

YOUNG_OBJECTS_MAX = 10_000
"""New objects before the youngest are looked through (Python's own: 700). A few MiB at most wait for it."""


def settle_heap() -> None:
    """Leave what the imports made out of every later collection. To be called once, when all is imported and nothing runs yet.

    Modules, models and compiled schemas are some hundred thousand objects that live as long as the process. A full collection looks through
    all of them again and again: measured in a worker at 50 jobs/s, a quarter of its time, and pauses of several hundred milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX, 20, 20)
