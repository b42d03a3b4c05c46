"""Reads topics to their end and then follows them, without a consumer group: each process needs all records."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import TypeAdapter

from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.fetch_wait import BUSY_WAIT_MS, FETCH_GAP_MS, GatheringPace
from backstop.runtime.kafka.lifetimes import running
from backstop.runtime.settings import RuntimeSettings
from schemas.base import Message
from schemas.codec import PoisonError, decode

log = structlog.get_logger()

F = TypeVar("F", bound=Message)

POLL_MS = 200
QUIET_POLL_MS = 2_000
"""Wait of a poll without records, once the topics are read to their end. Records end it at once."""
HOLD_MS = 5_000
"""Hold of an empty fetch: the partitions never change, so a record ends each fetch at once."""


@dataclass(frozen=True, slots=True)
class FollowedTopics:
    """What a follower reads. `again_s`: the pause after an error."""

    name: str
    """Of the client, and of the log's line when reading fails (`NAME_not_read`)."""
    topics: Sequence[str]
    again_s: float
    since_ms: Callable[[], int] | None = None
    """Time from which records are wanted; None: all."""


def facts_for(take: Callable[[F, int], None], adapter: TypeAdapter[F]) -> Callable[[Any], None]:
    """What a follower does with a record: `take` gets its fact, and the time that the broker gave it.

    Only Backstop writes these topics, so what can't be read is probably a fact of another release. It is logged, and
    stays in the topic.
    """

    def taken(record: Any) -> None:
        try:
            fact = decode(adapter, record.value)
        except PoisonError as error:
            place = {"topic": record.topic, "offset": record.offset}
            log.error("fact_unreadable", **place, reason=error.reason, detail=error.detail)
            return
        take(fact, record.timestamp)

    return taken


class TopicFollower:
    """Hands each record to `take`. Connects again after an error, and goes on where it was."""

    def __init__(
        self, settings: RuntimeSettings, following: FollowedTopics, take: Callable[[Any], None], *,
        caught_up: Callable[[], None] = lambda: None, consumer: Callable[..., Any] = AIOKafkaConsumer,
    ) -> None:  # fmt: skip
        """:param take: takes aiokafka's record; must not raise.
        :param caught_up: called once, when the topics are read to the end that they had at the connection.
        :param consumer: makes an `AIOKafkaConsumer`, or an object that behaves the same.
        """
        self._settings = settings
        self._following = following
        self._topics = [f"{settings.topic_prefix}{topic}" for topic in following.topics]
        self._take = take
        self._new_consumer = consumer
        self._positions: dict[TopicPartition, int] = {}
        self._caught_up = False
        self._on_end = caught_up
        self.tried = asyncio.Event()
        """Set when caught up, or when reading has failed."""

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                await self._follow()
            except Exception as error:  # any error of Kafka's client: the process works on without these topics
                event, again_s = f"{self._following.name}_not_read", self._following.again_s
                log.warning(event, topics=self._topics, error=repr(error), again_in_s=again_s)
            self.tried.set()
            await asyncio.sleep(self._following.again_s)

    async def _follow(self) -> None:
        consumer = self._new_consumer(
            *self._topics, **client_options(self._settings), client_id=f"backstop-{self._following.name}",
            group_id=None, enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=BUSY_WAIT_MS,
        )  # fmt: skip
        async with running(consumer):
            ends, pace = await self._seek(consumer), GatheringPace(FETCH_GAP_MS, HOLD_MS)
            while True:
                if not self._caught_up and all([await consumer.position(tp) >= end for tp, end in ends.items()]):
                    self._caught_up = True
                    self._on_end()
                    self.tried.set()
                batches = await consumer.getmany(timeout_ms=QUIET_POLL_MS if self._caught_up else POLL_MS)
                pace.saw(consumer, records=bool(batches))
                for tp, records in batches.items():
                    for record in records:
                        self._take(record)
                    self._positions[tp] = records[-1].offset + 1

    async def _seek(self, consumer: Any) -> dict[TopicPartition, int]:
        """Seek each partition to its last position, else to the first record of the wanted time, else to its end.
        Returns the end offsets.
        """
        partitions = sorted(consumer.assignment())
        ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        starts: dict[TopicPartition, int] = {}
        if self._following.since_ms is not None:
            found = await consumer.offsets_for_times(dict.fromkeys(partitions, self._following.since_ms()))
            starts = {tp: end if found.get(tp) is None else found[tp].offset for tp, end in ends.items()}
        for tp, start in (starts | self._positions).items():
            if tp in ends:
                consumer.seek(tp, start)
        return ends
