"""The only code that reads a clock. A composition root makes one and passes it on.

Wall time is read once, at the start, and carried on by the monotonic clock: `date -s`, an NTP step or the resume of a
virtual machine moves no deadline. A process started with a wrong clock stamps wrong times until it is restarted; tests
simulate that with `offset_ms`.
"""

import time
from collections.abc import Callable

NowMs = Callable[[], int]
"""Unix milliseconds."""


def make_clock(offset_ms: int = 0) -> NowMs:
    """A clock that never goes back, in unix milliseconds."""
    anchor_ns = time.time_ns() + offset_ms * 1_000_000 - time.monotonic_ns()

    def now_ms() -> int:
        return (anchor_ns + time.monotonic_ns()) // 1_000_000

    return now_ms


def monotonic_s() -> float:
    """For durations only."""
    return time.monotonic()


def uptime_s() -> float:
    """As `monotonic_s`, and where the system tells it (Linux), time in which the machine was suspended counts."""
    return time.clock_gettime(_UPTIME)


_UPTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
