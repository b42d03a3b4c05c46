"""An event loop without a clock, sockets or threads: time jumps to the next timer, and a seed decides who runs first.

Everything that could differ between two runs of one seed is decided here or drawn from the seed's generator: the order
of what is ready, the hash of a task (asyncio keeps tasks in sets, and goes through them), and the time.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

CANCELLED_MAX = 200
"""Cancelled timers that lie about before they are swept out."""


class DeadlockError(Exception):
    """No callback is ready and no timer runs: the simulated system hangs for ever."""


class _Permuted(deque[Any]):
    """The queue of ready callbacks. The next one is drawn."""

    def __init__(self, random: Callable[[], float]) -> None:
        super().__init__()
        self._random = random

    def popleft(self) -> Any:
        count = len(self)
        if count > 1:
            index = int(self._random() * count)
            if index:
                self[0], self[index] = self[index], self[0]
        return super().popleft()


class _Task(asyncio.Task[Any]):
    """A task whose hash is its number, not its address."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], *, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._number = number
        super().__init__(coroutine, loop=loop, name="")

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class VirtualLoop(asyncio.BaseEventLoop):
    """`time()` begins at 0 and moves only when no callback is ready."""

    def __init__(self, seed: str) -> None:
        super().__init__()
        self._now_s = 0.0
        self._tasks_made = 0
        self._ready = _Permuted(Random(seed).random)
        self.unretrieved: list[str] = []
        """What a callback or a forgotten task raised: always a defect."""
        self.set_exception_handler(self._hear)
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        scheduled, ready = self._scheduled, self._ready  # type: ignore[attr-defined]
        if self._timer_cancelled_count > CANCELLED_MAX:  # type: ignore[has-type]
            scheduled[:] = [handle for handle in scheduled if not handle._cancelled]
            heapq.heapify(scheduled)
            self._timer_cancelled_count = 0
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)
            self._timer_cancelled_count = max(0, self._timer_cancelled_count - 1)
        if not ready:
            if not scheduled:
                raise DeadlockError("nothing is ready, and no timer runs")
            self._now_s = max(self._now_s, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self._now_s:
            ready.append(heapq.heappop(scheduled))
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _make_task(self, _: Any, coroutine: Any, **__: Any) -> Any:
        self._tasks_made += 1
        return _Task(coroutine, number=self._tasks_made, loop=self)

    def _hear(self, _: Any, context: dict[str, Any]) -> None:
        self.unretrieved.append(f"{context.get('message')}: {context.get('exception')!r}")

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nothing to wake: the selector never sleeps."""
