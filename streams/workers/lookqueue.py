"""Looks and cancels that wait for their turn: those that a webhook asked for first, then cancels, then the rest."""

import asyncio
import heapq
import itertools
from dataclasses import dataclass

from schemas.commands import CancelResponse, RetrieveResponse
from streams.workers.commands import Record

WEBHOOK, CANCEL, OTHER = 0, 1, 2


@dataclass(slots=True)
class Call:
    """One command on its way: which record it came in, and how often it was tried."""

    command: RetrieveResponse | CancelResponse
    record: Record
    epoch: int
    tries: int = 0
    looks_instead: bool = False
    """The cancel was declined: a look tells how the response stands."""

    @property
    def turn(self) -> int:
        if isinstance(self.command, CancelResponse):
            return CANCEL
        return WEBHOOK if self.command.reason == "webhook" else OTHER


class LookQueue:
    """Within a turn, first come, first served. Bounded by whoever fills it."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Call]] = []
        self._sequence = itertools.count()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, call: Call) -> None:
        heapq.heappush(self._heap, (call.turn, next(self._sequence), call))
        self._filled.set()

    def pop(self) -> Call | None:
        return heapq.heappop(self._heap)[2] if self._heap else None

    def clear(self) -> int:
        """Forget all; how many they were."""
        count = len(self._heap)
        self._heap.clear()
        return count

    async def some(self) -> None:
        while not self._heap:
            self._filled.clear()
            await self._filled.wait()
