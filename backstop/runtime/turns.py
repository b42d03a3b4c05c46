"""Fair turns at a few places: whoever holds fewest goes next, and no owner takes the last places (`backstop.runtime.shares`)."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backstop.runtime.errors import BackstopError
from backstop.runtime.shares import Owner, Shares


class TooManyWaitingError(BackstopError):
    """Passing: as many of this owner wait as may."""


class Turns:
    """One a bounded thing, in one loop. An owner is its first name: the tenant."""

    def __init__(self, places: int, waiting_max: int) -> None:
        """`waiting_max`: of one owner."""
        self._shares = Shares(places)
        self._waiting_max = waiting_max
        self._waiting: OrderedDict[Owner, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, owner: Owner) -> AsyncIterator[None]:
        """Hold a place while this is open.

        :raises TooManyWaitingError: at once.
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
            raise TooManyWaitingError(f"{len(queue)} wait already")
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._shares.give_back(who)  # granted at the moment at which it gave up
                self._next()
            else:
                self._forget(who, granted)
            raise

    def _next(self) -> None:
        while any(self._shares.ask_sparing(who) and self._grant(who) for who in self._in_turn()):
            pass

    def _in_turn(self) -> list[Owner]:
        return sorted(self._waiting, key=self._shares.held)  # stable: among equals, who had its last turn longest ago

    def _grant(self, who: Owner) -> bool:
        granted = self._waiting[who][0]
        self._forget(who, granted)
        if who in self._waiting:
            self._waiting.move_to_end(who)
        granted.set_result(None)
        return True

    def _forget(self, who: Owner, one: "asyncio.Future[None]") -> None:
        self._waiting[who].remove(one)
        if not self._waiting[who]:
            del self._waiting[who]
