"""Shares lanes between workers over the topic `lanes`: one worker notices an outage and sends the probe for all, and
what one leaves of a limit another one uses.

The topic is read from its beginning (an hour) and then followed, without a group. It must not delay a job: a fact that
can't be written counts as read, reading is retried, and meanwhile the worker uses only its own facts.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.kafka.topic_follower import FollowedTopics, TopicFollower, facts_for
from backstop.runtime.process.clock import NowMs
from backstop.runtime.settings import RuntimeSettings
from schemas.lanes import LANE_FACT, CreateFact, LaneFact
from streams.policy.shared_limits import SharedLimits
from streams.workers.lanes import Lanes

log = structlog.get_logger()

TOPIC = "lanes"
QUEUE_MAX = 1_000
"""Facts that wait to be written; further ones stay in this worker."""
WRITE_TIMEOUT_S = 5.0
FIRST_READ_WAIT_S = 5.0
"""How long a starting worker waits to read which lanes are closed."""
READ_AGAIN_S = 5.0
TELL_S = 0.2
"""Interval at which the worker looks for something to tell of its limits."""


class LaneBoard:
    """Connects the lanes of a worker with the topic. To be `run` concurrently with the submitter."""

    def __init__(
        self, settings: RuntimeSettings, lanes: Lanes, publisher: Publisher, now_ms: NowMs,
        consumer: Callable[..., Any] = AIOKafkaConsumer, limits: SharedLimits | None = None,
    ) -> None:  # fmt: skip
        """:param limits: what workers tell each other of limits; None where no limits are set.
        :param consumer: makes an `AIOKafkaConsumer`, or an object that behaves the same.
        """
        self._lanes = lanes
        self._limits = limits if limits is not None and limits.limited else None
        self._publisher = publisher
        self._now_ms = now_ms
        following = FollowedTopics("lanes", [TOPIC], READ_AGAIN_S)
        self._topic = TopicFollower(settings, following, facts_for(self._take, LANE_FACT), consumer=consumer)
        self._queue: asyncio.Queue[LaneFact] = asyncio.Queue(QUEUE_MAX)
        lanes.join(self._put)

    async def first_read(self) -> None:
        """Wait until the topic was read to its end or reading failed, at most `FIRST_READ_WAIT_S`."""
        try:
            async with asyncio.timeout(FIRST_READ_WAIT_S):
                await self._topic.tried.wait()
        except TimeoutError:
            log.warning("lanes_not_read", wait_s=FIRST_READ_WAIT_S)

    async def run(self, stop: asyncio.Event) -> None:
        """Write and read facts until `stop` is set."""
        async with asyncio.TaskGroup() as tasks:
            working = [tasks.create_task(self._write_all()), tasks.create_task(self._topic.run())]
            if self._limits is not None:
                working.append(tasks.create_task(self._tell(self._limits)))
            await stop.wait()
            for task in working:
                task.cancel()  # A start of Kafka's consumer may take a minute where the topic is missing.

    def _put(self, fact: LaneFact) -> None:
        try:
            self._queue.put_nowait(fact)
        except asyncio.QueueFull:
            self._not_written(fact)

    async def _tell(self, limits: SharedLimits) -> None:
        while True:
            await asyncio.sleep(TELL_S)
            for fact in limits.tell(self._now_ms()):
                self._put(fact)

    def _not_written(self, fact: LaneFact) -> None:
        """An outcome of a create counts for this worker all the same."""
        if isinstance(fact, CreateFact):
            self._lanes.read(fact, self._now_ms())
        elif self._limits is not None:
            self._limits.lost(fact)

    async def _write_all(self) -> None:
        while True:
            facts = [await self._queue.get()]
            while not self._queue.empty():
                facts.append(self._queue.get_nowait())
            try:
                await self._publisher.publish(facts, WRITE_TIMEOUT_S)
            except BrokerUnavailableError as error:
                log.warning("lane_facts_not_written", count=len(facts), error=str(error))
                for fact in facts:
                    self._not_written(fact)

    def _take(self, fact: LaneFact, at_ms: int) -> None:
        now_ms = self._now_ms()
        # Facts from before the start have the broker's time. Later facts are new when read, whatever their writer's
        # clock.
        read_ms = now_ms if self._topic.tried.is_set() else min(now_ms, at_ms)
        if isinstance(fact, CreateFact):
            self._lanes.read(fact, read_ms)
        elif self._limits is not None:
            self._limits.take(fact, read_ms)
