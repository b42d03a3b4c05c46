"""`lanes` as one worker reads and writes it, so that an outage is found once for all workers and one probe goes out for all of them.

It is read from its beginning (an hour) and then followed, without a group. Nothing here may hold up a job: what can't be written counts as read, a
topic that can't be read is tried again, and meanwhile the worker's lanes go by what it met itself.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.lifetimes import running
from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.pausing import pause
from backstop.runtime.settings import RuntimeSettings
from schemas.codec import PoisonError, decode
from schemas.lanes import LANE_FACT, LaneFact
from streams.workers.lanes import Lanes

log = structlog.get_logger()

TOPIC = "lanes"
QUEUE_MAX = 1_000
"""Facts that wait to be written; past it they are known to this worker alone."""
WRITE_TIMEOUT_S = 5.0
FIRST_READ_WAIT_S = 5.0
"""How long a worker that starts waits to hear which lanes are closed."""
READ_AGAIN_S = 5.0
POLL_MS = 1_000
FETCH_WAIT_MS = 100


class LaneBoard:
    """Between the lanes of a worker and the topic. `run` it beside the submitter."""

    def __init__(
        self, settings: RuntimeSettings, lanes: Lanes, publisher: Publisher, now_ms: NowMs,
        consumer: Callable[..., Any] = AIOKafkaConsumer,
    ) -> None:  # fmt: skip
        """:param consumer: makes aiokafka's, or what behaves as it does."""
        self._settings = settings
        self._topic = f"{settings.topic_prefix}{TOPIC}"
        self._lanes = lanes
        self._publisher = publisher
        self._now_ms = now_ms
        self._new_consumer = consumer
        self._queue: asyncio.Queue[LaneFact] = asyncio.Queue(QUEUE_MAX)
        self._positions: dict[TopicPartition, int] = {}
        self._first_read = asyncio.Event()
        lanes.join(self._put)

    async def first_read(self) -> None:
        """Return when the topic was read to its end, or can't be read, or after `FIRST_READ_WAIT_S`."""
        try:
            async with asyncio.timeout(FIRST_READ_WAIT_S):
                await self._first_read.wait()
        except TimeoutError:
            log.warning("lanes_not_read", wait_s=FIRST_READ_WAIT_S)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            working = (tasks.create_task(self._write_all()), tasks.create_task(self._read_until(stop)))
            await stop.wait()
            for task in working:
                task.cancel()  # A start of Kafka's consumer may take a minute where the topic is missing.

    def _put(self, fact: LaneFact) -> None:
        try:
            self._queue.put_nowait(fact)
        except asyncio.QueueFull:
            self._lanes.read(fact, self._now_ms())

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
                    self._lanes.read(fact, self._now_ms())

    async def _read_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._follow(stop)
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("lanes_not_read", topic=self._topic, error=repr(error), again_in_s=READ_AGAIN_S)
            self._first_read.set()
            await pause(stop, READ_AGAIN_S)

    async def _follow(self, stop: asyncio.Event) -> None:
        consumer = self._new_consumer(
            self._topic, **client_options(self._settings), client_id="backstop-lanes", group_id=None,
            enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=FETCH_WAIT_MS,
        )  # fmt: skip
        async with running(consumer):
            for tp in consumer.assignment() & self._positions.keys():
                consumer.seek(tp, self._positions[tp])
            ends = await consumer.end_offsets(consumer.assignment())
            while not stop.is_set():
                if not self._first_read.is_set() and all([await consumer.position(tp) >= ends[tp] for tp in ends]):
                    self._first_read.set()
                for tp, records in (await consumer.getmany(timeout_ms=POLL_MS)).items():
                    for record in records:
                        self._take(record)
                    self._positions[tp] = await consumer.position(tp)

    def _take(self, record: Any) -> None:
        try:
            fact = decode(LANE_FACT, record.value)
        except PoisonError as error:
            # Only workers write here: another release's fact, most likely. It decides nothing that a probe would not find out.
            log.warning("lane_fact_unreadable", offset=record.offset, reason=error.reason, detail=error.detail)
            return
        now_ms = self._now_ms()
        # What was written before we came is as old as the broker says; after that a fact is new when it is read, whatever its writer's clock.
        self._lanes.read(fact, now_ms if self._first_read.is_set() else min(now_ms, record.timestamp))
