"""One clock for all processes: the broker's.

Every process stamps facts with times, and one process's scheduler acts on stamps of another. On a machine whose clock
is an hour ahead, the deadlines of all its partitions would pass at once. So each process sends a record to the topic
`clock`, reads the time that the broker stamped on it, and keeps the difference to its own clock. It asks again every
`ASK_EVERY_S`. Nothing is scheduled before the first answer.
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
"""A slower answer is ignored: its error may be half of its round trip."""
SLEW_MS_MAX = 500
"""Largest correction per answer after the first one: another
broker, with another clock, may become the topic's leader.
"""
RETRY_WAIT_S = 0.5
SKEW_MS_TOLD = 1_000


class TimeSource(Protocol):
    async def broker_time_ms(self) -> int:
        """The broker's time in Unix milliseconds. :raises BrokerUnavailableError: no answer."""
        ...


class BrokerClock:
    """`now_ms` is this process's clock, corrected. A correction may
    move it back by up to `SLEW_MS_MAX`; folds tolerate that.
    """

    def __init__(self, own_now_ms: NowMs, source: TimeSource) -> None:
        self._own_now_ms = own_now_ms
        self._source = source
        self._known = False
        self.skew_ms = 0
        """Added to this process's clock, in milliseconds."""

    def now_ms(self) -> int:
        return self._own_now_ms() + self.skew_ms

    async def ask(self) -> bool:
        """Ask once and correct the clock; False if the answer was too slow to use.

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
        """Return when the broker's time is known; repeats until the broker answers."""
        while True:
            try:
                if await self.ask():
                    return
            except BrokerUnavailableError as error:
                log.warning("the broker did not answer with its time; asking again", error=str(error))
            await asyncio.sleep(RETRY_WAIT_S)

    async def run(self, stop: asyncio.Event) -> None:
        """Ask every `ASK_EVERY_S` until `stop` is set."""
        while not stop.is_set():
            await pause(stop, ASK_EVERY_S)
            if stop.is_set():
                return
            try:
                await self.ask()
            except BrokerUnavailableError as error:
                log.warning("the broker did not answer with its time; keeping the last correction", error=str(error))


def said(source: str, own: str | None) -> bytes:
    """The value of a record on `clock`: the sender's name, then its blob folder's name if it uses one."""
    return (source if own is None else f"{source} {own}").encode()
