"""One clock for all processes: the broker's.

Every process stamps facts with times, and the scheduler of one acts on stamps of another. A machine whose clock is an hour ahead would let
the deadlines of all its partitions pass at once. So each process asks the broker what time it is (a record that the broker stamps, on a
topic of its own), takes the difference to its own monotonic clock, and goes on asking now and then. Before the first answer nothing
is scheduled.
"""

import asyncio
from typing import Protocol

import structlog

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.pausing import pause

log = structlog.get_logger()

ASK_EVERY_S = 30.0
ROUND_TRIP_MS_MAX = 2_000
"""A slower answer says too little: it may be wrong by half of its round trip."""
SLEW_MS_MAX = 500
"""After the first answer the clock is moved by this much at a time: the leader of the topic may change, and its clock with it."""
RETRY_WAIT_S = 0.5
SKEW_MS_TOLD = 1_000


class TimeSource(Protocol):
    async def broker_time_ms(self) -> int:
        """Unix milliseconds, by the broker. :raises BrokerUnavailableError: no answer."""
        ...


class BrokerClock:
    """`now_ms` is this process's clock, corrected. It may go back by `SLEW_MS_MAX` in a correction; folds do not mind."""

    def __init__(self, own_now_ms: NowMs, source: TimeSource) -> None:
        self._own_now_ms = own_now_ms
        self._source = source
        self._known = False
        self.skew_ms = 0
        """What is added to our own clock."""

    def now_ms(self) -> int:
        return self._own_now_ms() + self.skew_ms

    async def ask(self) -> bool:
        """Ask once and correct; False where the answer came too slowly to be used.

        :raises BrokerUnavailableError: no answer.
        """
        before_ms = self._own_now_ms()
        broker_ms = await self._source.broker_time_ms()
        after_ms = self._own_now_ms()
        if after_ms - before_ms > ROUND_TRIP_MS_MAX:
            return False
        found_ms = broker_ms - (before_ms + after_ms) // 2
        if not self._known:
            self._known = True
            self.skew_ms = found_ms
            if abs(found_ms) > SKEW_MS_TOLD:
                log.warning("this machine's clock differs from the broker's; using the broker's", skew_ms=found_ms)
        else:
            self.skew_ms += max(-SLEW_MS_MAX, min(SLEW_MS_MAX, found_ms - self.skew_ms))
        return True

    async def first(self) -> None:
        """Return when the broker's time is known; while it does not answer this waits."""
        while True:
            try:
                if await self.ask():
                    return
            except BrokerUnavailableError as error:
                log.warning("the broker does not say what time it is; asking again", error=str(error))
            await asyncio.sleep(RETRY_WAIT_S)

    async def run(self, stop: asyncio.Event) -> None:
        """Go on asking until `stop`."""
        while not stop.is_set():
            await pause(stop, ASK_EVERY_S)
            if stop.is_set():
                return
            try:
                await self.ask()
            except BrokerUnavailableError as error:
                log.warning("the broker did not say what time it is", error=str(error))


def said(source: str, own: str | None) -> bytes:
    """What a record on `clock` says: who sends it, and which folder it uses, where it uses one."""
    return (source if own is None else f"{source} {own}").encode()
