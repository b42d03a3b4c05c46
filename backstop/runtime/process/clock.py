"""The only code that reads a clock. Composition roots make one and hand it on.

Wall time is read once, at the start, and carried on by the monotonic clock: an operator's `date -s`, an NTP step or a
virtual machine's resume moves no deadline of ours. A process that was started with a wrong clock stamps wrong times until
it is restarted; `offset_ms` lets tests be that process.
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
