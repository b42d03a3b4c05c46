"""The lanes and pauses as one receiver knows them, read from `lanes` and `pauses` without a consumer group.

It decides nothing: workers fold the same facts for themselves. A writer of a pause waits until its fact is read back,
so that it sees its own change, and what another receiver wrote before it.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiokafka import AIOKafkaConsumer

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.topic_follower import FollowedTopics, TopicFollower, facts_for
from backstop.runtime.process.clock import NowMs
from backstop.runtime.settings import RuntimeSettings
from schemas.lanes import LANE_FACT, CreateFact, LaneFact
from schemas.pauses import PAUSE_FACT, PauseFact
from streams.policy.lanes import Lane, take
from streams.policy.pauses import PauseBook

READ_AGAIN_S: Final = 2.0
READ_BACK_S: Final = 5.0
LANES_MAX: Final = 1_000
"""Callers choose the names of models. Beyond this many, a lane is forgotten, an open one first."""


class LaneWatch:
    def __init__(
        self, settings: RuntimeSettings, now_ms: NowMs, consumer: Callable[..., Any] = AIOKafkaConsumer
    ) -> None:  # fmt: skip
        """:param consumer: makes an `AIOKafkaConsumer`, or an object that behaves the same."""
        self.book = PauseBook()
        self.lanes: dict[tuple[str, str], Lane] = {}
        """By account and model: lanes that had trouble in the last hour."""
        self.pauses_read = asyncio.Event()
        """Set when `pauses` was read to its end once."""
        self._now_ms = now_ms
        self._awaited: dict[str, asyncio.Event] = {}
        # Apart, as each must go on where the other topic is missing.
        self._followers = (
            TopicFollower(settings, FollowedTopics("watched-lanes", ["lanes"], READ_AGAIN_S),
                          facts_for(self._lane, LANE_FACT), consumer=consumer),
            TopicFollower(settings, FollowedTopics("watched-pauses", ["pauses"], READ_AGAIN_S),
                          facts_for(self._pause, PAUSE_FACT), caught_up=self.pauses_read.set, consumer=consumer),
        )  # fmt: skip

    async def run(self) -> None:
        """Follow both topics until cancelled."""
        await asyncio.gather(*(follower.run() for follower in self._followers))

    async def first_read(self) -> None:
        """Wait until the pauses were read once.

        :raises BrokerUnavailableError: they were not read within `READ_BACK_S`.
        """
        await _within(self.pauses_read, "the topic `pauses` could not be read")

    def expect(self, fact_id: str) -> None:
        """To be called before the fact is published."""
        self._awaited[fact_id] = asyncio.Event()

    async def read_back(self, fact_id: str) -> None:
        """Wait until a fact that was expected is read.

        :raises BrokerUnavailableError: it was not read within `READ_BACK_S`.
        """
        await _within(self._awaited[fact_id], "the pause was written and not read back")

    def forget(self, fact_id: str) -> None:
        """To be called once it is expected no more, also where it could not be published."""
        self._awaited.pop(fact_id, None)

    def take_pause(self, fact: PauseFact, at_ms: int) -> None:
        """Take the next fact of `pauses`."""
        self.book.take(fact, at_ms)
        awaited = self._awaited.get(fact.id)
        if awaited is not None:
            awaited.set()

    def take_lane(self, fact: CreateFact, at_ms: int) -> None:
        """Take the next fact of `lanes` that may change a lane."""
        place = (fact.account, fact.model)
        lane = self.lanes[place] = take(self.lanes.get(place, Lane()), fact, at_ms)
        if lane == Lane():
            del self.lanes[place]
        elif len(self.lanes) > LANES_MAX:
            del self.lanes[next((name for name, each in self.lanes.items() if each.closed is None), place)]

    def _lane(self, fact: LaneFact, at_ms: int) -> None:
        if isinstance(fact, CreateFact):
            self.take_lane(fact, min(self._now_ms(), at_ms))

    def _pause(self, fact: PauseFact, at_ms: int) -> None:
        self.take_pause(fact, min(self._now_ms(), at_ms))


async def _within(event: asyncio.Event, otherwise: str) -> None:
    try:
        async with asyncio.timeout(READ_BACK_S):
            await event.wait()
    except TimeoutError:
        raise BrokerUnavailableError(f"{otherwise} within {READ_BACK_S:g} s") from None
