"""A topic of commands, shared with the other members of a consumer group; earlier records can be read back."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError

from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.lifetimes import started
from backstop.runtime.kafka.topic_reader import read_to
from backstop.runtime.process.pausing import pause
from backstop.runtime.records import Record, record_of
from backstop.runtime.settings import RuntimeSettings
from schemas.unreadable import Unreadable
from streams.workers.commands import Assignment, ReadBack, Taken
from streams.workers.handed_group import HandedGroup
from streams.workers.offsets import Committed

log = structlog.get_logger()

RETRY_S = 0.5
FETCH_BYTES_MAX = 8 << 20

T = TypeVar("T")


class CommandGroup:
    """`streams.workers.commands.Commands` on Kafka. Methods raise a KafkaError that is not retriable (authorization, a
    missing topic).
    """

    def __init__(
        self, settings: RuntimeSettings, *, topic: str, group: str, session_timeout_ms: int = 10_000,
        consumer: Callable[..., Any] = AIOKafkaConsumer, joined: Callable[[str, str], None] | None = None,
    ) -> None:  # fmt: skip
        """:param consumer: makes an `AIOKafkaConsumer`, or an object that behaves the same.
        :param joined: as in `ConsumerGroup`.
        """
        self._topic = topic
        self._group = HandedGroup(
            settings, topic=topic, group=group, session_timeout_ms=session_timeout_ms, consumer=consumer,
            max_partition_fetch_bytes=FETCH_BYTES_MAX, joined=joined,
        )  # fmt: skip
        self._settings = settings
        self._new_consumer = consumer
        self._reader: Any = None

    @property
    def epoch(self) -> int:
        return self._group.epoch

    @property
    def partitions(self) -> frozenset[int]:
        return frozenset(number for _, number in self._group.partitions)

    def landed(self, record: Record) -> None:
        """A record of the topic that this process has written is acknowledged."""
        self._group.landed(record)

    async def start(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._group.join()
            except KafkaConnectionError as error:
                log.warning("broker_unreachable", group=self._group.name, error=repr(error))
                await pause(stop, RETRY_S)
            else:
                return

    async def stop(self) -> None:
        await self._group.stop()
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.stop()

    async def take(self, records_max: int, wait_ms: int) -> Taken:
        if not self._group.joined:
            return Taken(self.epoch)
        try:
            taken = await self._group.take(records_max, wait_ms)
        except KafkaError as error:
            if not error.retriable:
                raise
            log.warning("take_failed", group=self._group.name, error=repr(error))
            await asyncio.sleep(RETRY_S)
            return Taken(self.epoch)
        return Taken(taken.epoch, {number: records for (_, number), records in taken.by_partition.items() if records})

    async def assignment(self) -> Assignment:
        found = await self._answered(self._group.assignment, "commits_not_read")
        return Assignment(
            found.epoch,
            {
                number: Committed() if at is None else Committed(at.offset, at.metadata or "")
                for (_, number), at in found.places.items()
            },
        )

    async def commit(self, epoch: int, next_offsets: Mapping[int, int], notes: Mapping[int, str] | None = None) -> bool:
        offsets = {(self._topic, number): offset for number, offset in next_offsets.items()}
        return await self._group.commit(
            epoch, offsets, {(self._topic, number): note for number, note in (notes or {}).items()}
        )

    async def read_back(self, partition: int, before_offset: int, since_ms: int, records_max: int) -> ReadBack:
        return await self._answered(
            lambda: self._read_back(partition, before_offset, since_ms, records_max), "tail_not_read"
        )

    async def _read_back(self, partition: int, before_offset: int, since_ms: int, records_max: int) -> ReadBack:
        reader = await self._started_reader()
        tp = TopicPartition(f"{self._settings.topic_prefix}{self._topic}", partition)
        found = (await reader.offsets_for_times({tp: max(0, since_ms)}))[tp]
        log_start = (await reader.beginning_offsets([tp]))[tp]
        since_offset = before_offset if found is None else found.offset
        start = max(since_offset, before_offset - records_max, log_start)
        if start >= before_offset:
            return ReadBack((), since_ms)
        reader.assign([tp])
        reader.seek(tp, start)
        records: list[Record] = []
        async for batches in read_to(reader, {tp: before_offset}):
            records += map(record_of, batches[tp])
        # Older records may be deleted with their segment, or left out because of `records_max`.
        stamps = (record.timestamp_ms for record in records if not isinstance(record.value, Unreadable))
        whole = start == since_offset and (start > log_start or log_start == 0)
        return ReadBack(records, since_ms if whole else next(stamps, since_ms))

    async def _answered(self, ask: Callable[[], Awaitable[T]], event: str) -> T:
        """Ask until the broker answers."""
        while True:
            try:
                return await ask()
            except KafkaError as error:
                if not (error.retriable or isinstance(error, KafkaTimeoutError)):
                    raise
                log.warning(event, group=self._group.name, error=repr(error))
                await asyncio.sleep(RETRY_S)

    async def _started_reader(self) -> Any:
        if self._reader is None:
            reader = self._new_consumer(
                **client_options(self._settings),
                client_id=f"{self._group.name}-tail",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                max_partition_fetch_bytes=FETCH_BYTES_MAX,
            )
            self._reader = await started(reader)
        return self._reader
