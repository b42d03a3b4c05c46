"""Polls and cancels that wait for their turn, in three lanes: polls after a webhook, scheduled polls, cancels.

Every lane gets turns, even if the others are not empty. When the provider allows fewer calls than are wanted, polls
after webhooks could take every turn, and jobs whose webhook was lost would miss their deadline without a poll. Each of
those asks for a cancel, and cancels before polls would cause more of them.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from schemas.commands import CancelResponse, RetrieveResponse

WEBHOOK, DUE, CANCEL = 0, 1, 2
"""Lanes; the lower number is the more urgent."""

TURNS = (WEBHOOK, DUE, WEBHOOK, CANCEL)
"""The order of turns, repeated. An empty lane leaves its turn to the most urgent lane that is not empty."""


@dataclass(slots=True)
class Call:
    """One call to make, with the offsets of all commands that it answers and the number of tries."""

    command: RetrieveResponse | CancelResponse
    partition: int
    offsets: list[int]
    tries: int = 0
    polls_instead: bool = False
    """The provider declined the cancel: retrieve the response instead."""
    lane: int = field(init=False)
    asked_at_ms: int = field(init=False)
    """The time of the newest command that this call answers."""

    def __post_init__(self) -> None:
        self.asked_at_ms = self.command.at_ms
        if isinstance(self.command, CancelResponse):
            self.lane = CANCEL
        else:
            self.lane = WEBHOOK if self.command.reason == "webhook" else DUE

    def absorb(self, other: "Call") -> None:
        """Answer `other` too. A cancel's answer contains the object, so it replaces a retrieve.

        Of two retrieves, keep the more urgent, else the newer.
        """
        cancels = isinstance(other.command, CancelResponse)
        if cancels or (not isinstance(self.command, CancelResponse) and other.lane <= self.lane):
            self.command, self.tries, self.polls_instead = other.command, other.tries, other.polls_instead
        self.lane = min(self.lane, other.lane)
        self.asked_at_ms = max(self.asked_at_ms, other.asked_at_ms)
        self.offsets += other.offsets


class PollQueue:
    """At most one call per response waits. A lane is first in, first out, unless the caller orders it.

    The caller bounds the size.
    """

    def __init__(self) -> None:
        self._lanes: tuple[deque[Call], ...] = (deque(), deque(), deque())
        self._waiting: dict[str, Call] = {}
        self._turn = 0
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, call: Call) -> bool:
        """Add a call. False if a call of the same response waits already: it then answers both."""
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
        """Remove and return all calls but those that `keeps` accepts. Walks the whole queue; to be called rarely."""
        dropped = [call for call in self._waiting.values() if not keeps(call)]
        for call in dropped:
            del self._waiting[call.command.response_id]
        if dropped:
            self._lanes = tuple(deque(filter(self._waits, lane)) for lane in self._lanes)
        return dropped

    def order(self, urgency: Callable[[Call], float]) -> None:
        """Order the scheduled polls, the most urgent first; equal ones stay in line. Walks them all."""
        due = [call for call in self._lanes[DUE] if self._waits(call) and call.lane == DUE]
        due.sort(key=urgency, reverse=True)
        self._lanes = (self._lanes[WEBHOOK], deque(due), self._lanes[CANCEL])

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
            # A call that became more urgent is in two lanes; only its current lane counts.
            if self._waits(call) and call.lane == lane:
                del self._waiting[call.command.response_id]
                return call
        return None

    def _waits(self, call: Call) -> bool:
        return self._waiting.get(call.command.response_id) is call
