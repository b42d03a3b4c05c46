"""The wall clock, simulated time, and timers on one heap with one pending callback of the event loop."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)


class Clock:
    """Real time for stamps, simulated seconds for durations."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def now_s(self) -> float:
        """Real seconds on a clock that never goes back."""
        return time.monotonic()

    def real_s(self, simulated_s: float) -> float:
        """How long `simulated_s` takes here."""
        return simulated_s / self.scale


class Timers:
    """Callbacks at real times, in order of time, with one timer of the event loop for thousands of open responses.

    An entry can't be withdrawn: the callback must itself detect that it is obsolete.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._sequence = itertools.count()
        self._armed: asyncio.TimerHandle | None = None
        self._armed_at_s = 0.0
        self._closed = False

    def __len__(self) -> int:
        return len(self._heap)

    def after(self, real_s: float, callback: Callable[..., object], *args: Any) -> None:
        """Call `callback(*args)` in `real_s` real seconds, unless closed before that."""
        if self._closed:
            return
        at_s = self._clock.now_s() + max(real_s, 0.0)
        heapq.heappush(self._heap, (at_s, next(self._sequence), callback, args))
        if self._heap[0][0] == at_s:
            self._arm()

    def close(self) -> None:
        """Drop all timers; later calls of `after` do nothing."""
        self._closed = True
        self._heap.clear()
        if self._armed is not None:
            self._armed.cancel()

    def _arm(self) -> None:
        if self._armed is not None:
            if self._armed_at_s <= self._heap[0][0] and not self._armed.cancelled():
                return
            self._armed.cancel()
        self._armed_at_s = self._heap[0][0]
        loop = asyncio.get_running_loop()
        self._armed = loop.call_later(max(self._armed_at_s - self._clock.now_s(), 0.0), self._fire)

    def _fire(self) -> None:
        self._armed = None
        now_s = self._clock.now_s()
        while self._heap and self._heap[0][0] <= now_s:
            _, _, callback, args = heapq.heappop(self._heap)
            try:
                callback(*args)
            except Exception:
                # A callback that fails must not stop the others.
                _log.exception("a timer's callback failed")
        if self._heap and not self._closed:
            self._arm()
