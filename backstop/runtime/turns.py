"""Fair turns at a few places: the owner that holds fewest is next, and none takes the last places (`runtime.shares`).

One that waits may be cancelled at any time, also in the pass of the loop in which a place comes free: its future is
cancelled then, and its own code has not run yet. Such a future gets no place.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backstop.runtime.errors import BackstopError
from backstop.runtime.shares import Owner, Shares


class TooManyWaitingError(BackstopError):
    """Passing: this owner already has the most waiting that it may have."""


class ResourceTurns:
    """For one bounded resource, in one event loop. Only the owner's first name counts: the tenant."""

    def __init__(self, places: int, waiting_max: int) -> None:
        """`waiting_max`: per owner."""
        self._shares = Shares(places)
        self._waiting_max = waiting_max
        self._waiting: OrderedDict[Owner, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, owner: Owner) -> AsyncIterator[None]:
        """Hold a place for the length of the block; waits for it.

        :raises TooManyWaitingError: at once, if `waiting_max` of the owner wait.
        """
        who = owner[:1]
        if who in self._waiting or not self._shares.ask_sparing(who):
            await self._wait(who)
        try:
            yield
        finally:
            self._shares.give_back(who)
            self._next()

    async def _wait(self, who: Owner) -> None:
        queue = self._waiting.setdefault(who, deque())
        if len(queue) >= self._waiting_max:
            raise TooManyWaitingError(
                f"{len(queue)} requests of this owner wait already; the limit is {self._waiting_max}"
            )
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._forget(who, granted)
            else:
                self._shares.give_back(who)  # granted at the moment of its cancellation
                self._next()
            raise

    def _next(self) -> None:
        while any(self._shares.ask_sparing(who) and self._grant(who) for who in self._in_turn()):
            pass

    def _in_turn(self) -> list[Owner]:
        return sorted(self._waiting, key=self._shares.held)  # stable: among equals, the longest since its last turn

    def _grant(self, who: Owner) -> bool:
        granted = self._waiting[who][0]
        self._forget(who, granted)
        if granted.cancelled():
            self._shares.give_back(who)
            return True
        if who in self._waiting:
            self._waiting.move_to_end(who)
        granted.set_result(None)
        return True

    def _forget(self, who: Owner, one: "asyncio.Future[None]") -> None:
        queue = self._waiting.get(who)
        if queue is None or one not in queue:
            return  # a place that came free has met it
        queue.remove(one)
        if not queue:
            del self._waiting[who]
