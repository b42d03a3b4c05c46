"""Looks and cancels that wait for their turn: those that a webhook asked for first, then cancels, then the rest."""

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field

from runtime.records import Record
from schemas.commands import CancelResponse, RetrieveResponse

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
    turn: int = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.command, CancelResponse):
            self.turn = CANCEL
        else:
            self.turn = WEBHOOK if self.command.reason == "webhook" else OTHER

    def absorb(self, other: "Call") -> None:
        """Do what `other` asks for, too. A cancel tells what a look would; of two looks the more urgent, or the later one, is made."""
        cancels = isinstance(other.command, CancelResponse)
        if cancels or (not isinstance(self.command, CancelResponse) and other.turn <= self.turn):
            self.command, self.tries, self.looks_instead = other.command, other.tries, other.looks_instead
        self.turn = min(self.turn, other.turn)


class LookQueue:
    """At most one call of each response waits. Within a turn, first come, first served. Bounded by whoever fills it."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Call]] = []
        self._waiting: dict[str, Call] = {}
        self._sequence = itertools.count()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, call: Call) -> bool:
        """False where a call of the same response, of the same assignment or a later one, waits already and does for both."""
        response_id = call.command.response_id
        waiting = self._waiting.get(response_id)
        if waiting is None or waiting.epoch < call.epoch:
            self._waiting[response_id] = call
            self._enter(call)
            return True
        if waiting.epoch == call.epoch:
            turn = waiting.turn
            waiting.absorb(call)
            if waiting.turn < turn:
                self._enter(waiting)
        return False

    def pop(self) -> Call | None:
        while self._heap:
            turn, _, call = heapq.heappop(self._heap)
            response_id = call.command.response_id
            # What has become more urgent, or was overtaken, stands there a second time.
            if self._waiting.get(response_id) is call and call.turn == turn:
                del self._waiting[response_id]
                return call
        return None

    def clear(self) -> int:
        """Forget all; how many they were."""
        count = len(self._waiting)
        self._heap.clear()
        self._waiting.clear()
        return count

    async def some(self) -> None:
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()

    def _enter(self, call: Call) -> None:
        heapq.heappush(self._heap, (call.turn, next(self._sequence), call))
        self._filled.set()
