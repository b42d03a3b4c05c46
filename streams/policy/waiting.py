"""The jobs of one tenant that wait for a lane, in the order in which they go. Pure.

Rules:
- A retry goes first: its turn was taken before.
- Then a job whose deadline is near (slack under twice the median run time), the earliest first.
- Then the order in which the jobs came.
"""

import heapq
from collections import deque
from dataclasses import dataclass

from schemas.base import Priority
from streams.policy.sizes import Asked

Place = tuple[int, bytes]
"""Partition and key of a job."""

NEAR_FACTOR = 2


@dataclass(slots=True, eq=False)
class Waiter:
    """A job that waits for its turn."""

    partition: int
    key: bytes
    asked: Asked
    deadline_ms: int
    priority: Priority = "normal"
    retry: bool = False
    delayed: bool = False
    """Its turn came, and there was no room."""
    gone: bool = False
    """It was granted or no longer waits; it is passed over where it still stands in a queue."""
    queue: "TenantQueue | None" = None
    """Where it stands, or stood last."""


class TenantQueue:
    """See the module. Each operation is O(log n), amortised."""

    def __init__(self) -> None:
        self._retries: deque[Waiter] = deque()
        self._others: deque[Waiter] = deque()
        self._early: list[tuple[int, int, Waiter]] = []
        """Those of `_others` with a deadline before that of one that came sooner. All others are in order anyway."""
        self._latest_ms = 0
        self._deadlines_moved = False
        self._count = 0
        self._entries = 0

    def put(self, waiter: Waiter) -> None:
        waiter.queue = self
        self._count += 1
        if waiter.retry:
            self._retries.append(waiter)
            return
        self._others.append(waiter)
        if waiter.deadline_ms < self._latest_ms:
            self._entries += 1
            heapq.heappush(self._early, (waiter.deadline_ms, self._entries, waiter))
        self._latest_ms = max(self._latest_ms, waiter.deadline_ms)

    def moved(self, waiter: Waiter, deadline_ms: int) -> None:
        """`waiter`, which waits here and keeps its place, has another deadline."""
        waiter.deadline_ms = deadline_ms
        self._latest_ms = max(self._latest_ms, deadline_ms)
        self._deadlines_moved = True

    def first(self, now_ms: int, run_ms: int) -> Waiter | None:
        """The job whose turn it is; `run_ms` is the median run time, 0 if it is not known."""
        for queue in (self._retries, self._others):
            while queue and queue[0].gone:
                queue.popleft()
        if self._deadlines_moved:  # Rebuilt once, however many were moved: any of them may be early now.
            self._deadlines_moved = False
            left = (waiter for waiter in self._others if not waiter.gone)
            self._early = [(waiter.deadline_ms, order, waiter) for order, waiter in enumerate(left)]
            self._entries = len(self._early)
            heapq.heapify(self._early)
        while self._early and self._early[0][2].gone:
            heapq.heappop(self._early)
        if self._retries:
            return self._retries[0]
        if not self._others:
            self._latest_ms = 0
            return None
        if self._early and self._early[0][0] - now_ms < NEAR_FACTOR * run_ms:
            return self._early[0][2]
        return self._others[0]

    def remove(self, waiter: Waiter) -> None:
        """`waiter`, which waits here, was granted or has ended."""
        waiter.gone = True
        self._count -= 1

    def __len__(self) -> int:
        return self._count
