"""How much begins in one pass of the event loop.

A pass runs all that is ready before anything else. If hundreds of connections have a request ready, all of them at
once would hold up each stream, timer and answer for as long as they all take. So a pass begins a bounded number, and
the rest wait for the next passes, by address in turn: a client with many connections waits behind itself.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from receiver.failures import log_failure

REQUESTS_EACH_PASS: Final = 24
"""A request costs up to about 1 ms where it begins, if it is refused there."""

ARRIVALS_EACH_PASS: Final = 64
"""First requests of connections: to set up aiohttp's protocol costs about 0.1 ms."""

PIECES_EACH_PASS: Final = 8
"""Pieces of data that is dear to parse (`receiver.connections`)."""


class LoopTurns:
    """One instance for each event loop and kind of work. What waits is bounded by the connections: each has one."""

    def __init__(self, each_pass: int) -> None:
        assert each_pass >= 1
        self._each_pass = each_pass
        self._begun = 0
        self._waiting: OrderedDict[str, deque[Callable[[], None]]] = OrderedDict()
        self._passing = False

    def now(self) -> bool:
        """Whether one more may begin in this pass, which then counts as begun."""
        if not self._passing:
            self._passing = True
            asyncio.get_running_loop().call_soon(self._next_pass)
        if self._begun >= self._each_pass or self._waiting:
            return False
        self._begun += 1
        return True

    def later(self, owner: str, begin: Callable[[], None]) -> None:
        """After `now` said no: call `begin` in a later pass."""
        self._waiting.setdefault(owner, deque()).append(begin)

    async def take(self, owner: str) -> None:
        """Return at once if `now`, else in a later pass."""
        if self.now():
            return
        turn = asyncio.get_running_loop().create_future()
        self.later(owner, lambda: None if turn.done() else turn.set_result(None))  # done: cancelled meanwhile
        await turn

    def _next_pass(self) -> None:
        self._begun = 0
        while self._waiting and self._begun < self._each_pass:
            owner, begins = self._waiting.popitem(last=False)
            begin = begins.popleft()
            if begins:
                self._waiting[owner] = begins  # behind all others
            self._begun += 1
            try:
                begin()
            except Exception as error:  # any: it must not hold up all others
                log_failure(error)
        self._passing = self._begun > 0
        if self._passing:
            asyncio.get_running_loop().call_soon(self._next_pass)
