"""The broker's clock: which answers are used."""

import asyncio

import pytest

from backstop.runtime.kafka import broker_clock
from backstop.runtime.kafka.broker_clock import ROUND_TRIP_MS_MAX, SLEW_MS_MAX, BrokerClock

AHEAD_MS = 3_600_000


class Source:
    """A broker whose clock is an hour ahead, with settable delays of its answers."""

    def __init__(self, *takes_ms: int) -> None:
        self.own_ms = 1_000
        self._takes_ms = list(takes_ms)

    async def broker_time_ms(self) -> int:
        takes_ms = self._takes_ms.pop(0)
        stamped_ms = self.own_ms + AHEAD_MS  # at once; the answer is what is slow
        self.own_ms += takes_ms
        return stamped_ms


def test_a_first_answer_that_came_too_slowly_is_not_believed_and_the_next_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_clock, "RETRY_WAIT_S", 0.0)
    source = Source(ROUND_TRIP_MS_MAX + 1, 60_000, 10)
    clock = BrokerClock(lambda: source.own_ms, source)

    async def main() -> None:
        assert not await clock.ask()
        assert clock.skew_ms == 0
        await clock.first()

    asyncio.run(main())
    assert clock.skew_ms == AHEAD_MS - 5


def test_a_later_answer_that_came_too_slowly_moves_nothing() -> None:
    source = Source(0, ROUND_TRIP_MS_MAX + 1, ROUND_TRIP_MS_MAX)
    clock = BrokerClock(lambda: source.own_ms, source)

    async def main() -> None:
        assert await clock.ask()
        assert not await clock.ask()
        assert clock.skew_ms == AHEAD_MS
        assert await clock.ask()

    asyncio.run(main())
    assert clock.skew_ms == AHEAD_MS - min(SLEW_MS_MAX, ROUND_TRIP_MS_MAX // 2)
