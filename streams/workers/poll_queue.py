"""Looks and cancels that wait for their turn, in three lanes: looks that a webhook asked for, looks that the schedule asked for, cancels.

No lane waits for another to be empty. When the provider lets us make fewer calls than are wanted, webhooks alone could fill every turn, and
jobs whose webhook was lost would run into their deadline unseen; each of those then asks for a cancel, and cancels before looks would make
more of them.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from schemas.commands import CancelResponse, RetrieveResponse

WEBHOOK, DUE, CANCEL = 0, 1, 2
"""Lanes; the lesser is the more urgent."""

TURNS = (WEBHOOK, DUE, WEBHOOK, CANCEL)
"""Whose turn it is, over and over. A lane that is empty leaves its turn to the most urgent one that is not."""


@dataclass(slots=True)
class Call:
    """One command on its way, with the offsets of all commands that it does; and how often it was tried."""

    command: RetrieveResponse | CancelResponse
    partition: int
    offsets: list[int]
    tries: int = 0
    polls_instead: bool = False
    """The cancel was declined: a look tells how the response stands."""
    lane: int = field(init=False)
    asked_at_ms: int = field(init=False)
    """The last time that anybody asked for it."""

    def __post_init__(self) -> None:
        self.asked_at_ms = self.command.at_ms
        if isinstance(self.command, CancelResponse):
            self.lane = CANCEL
        else:
            self.lane = WEBHOOK if self.command.reason == "webhook" else DUE

    def absorb(self, other: "Call") -> None:
        """Do what `other` asks for, too. A cancel tells what a look would; of two looks the more urgent, or the later one, is made."""
        cancels = isinstance(other.command, CancelResponse)
        if cancels or (not isinstance(self.command, CancelResponse) and other.lane <= self.lane):
            self.command, self.tries, self.polls_instead = other.command, other.tries, other.polls_instead
        self.lane = min(self.lane, other.lane)
        self.asked_at_ms = max(self.asked_at_ms, other.asked_at_ms)
        self.offsets += other.offsets


class PollQueue:
    """At most one call of each response waits. Within a lane, first come, first served. Bounded by whoever fills it."""

    def __init__(self) -> None:
        self._lanes: tuple[deque[Call], ...] = (deque(), deque(), deque())
        self._waiting: dict[str, Call] = {}
        self._turn = 0
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, call: Call) -> bool:
        """False where a call of the same response waits already, and does for both."""
        response_id = call.command.response_id
        waiting = self._waiting.get(response_id)
        if waiting is None:
            self._waiting[response_id] = call
            self._enter(call)
            return True
        lane = waiting.lane
        waiting.absorb(call)
        if waiting.lane < lane:
            self._enter(waiting)
        return False

    def pop(self) -> Call | None:
        whose = TURNS[self._turn % len(TURNS)]
        self._turn += 1
        for lane in (whose, WEBHOOK, DUE, CANCEL):
            call = self._first(lane)
            if call is not None:
                return call
        return None

    def drop(self, keeps: Callable[[Call], bool]) -> list[Call]:
        """Take out all but those. Walks all that wait: for the rare occasion."""
        dropped = [call for call in self._waiting.values() if not keeps(call)]
        for call in dropped:
            del self._waiting[call.command.response_id]
        if dropped:
            self._lanes = tuple(deque(filter(self._waits, lane)) for lane in self._lanes)
        return dropped

    async def some(self) -> None:
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()

    def _enter(self, call: Call) -> None:
        self._lanes[call.lane].append(call)
        self._filled.set()

    def _first(self, lane: int) -> Call | None:
        calls = self._lanes[lane]
        while calls:
            call = calls.popleft()
            # What has become more urgent stands there a second time.
            if self._waits(call) and call.lane == lane:
                del self._waiting[call.command.response_id]
                return call
        return None

    def _waits(self, call: Call) -> bool:
        return self._waiting.get(call.command.response_id) is call
