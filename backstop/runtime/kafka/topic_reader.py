"""Reads topics up to their present end. Leaves no trace on the broker.

No group, no commits. The consumer's position decides when a partition is read to its end, not the last record seen:
offsets have gaps (transaction markers, compaction), and the last offset before the end may hold no record. A batch that
can't be decoded is one record (`schemas.unreadable`).
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, KafkaTimeoutError
from aiokafka.partitioner import murmur2

from backstop.runtime.errors import ConfigurationError
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.diagnosis import why_unusable
from backstop.runtime.kafka.lifetimes import broker_errors, running
from backstop.runtime.records import Partition, Record, record_of
from backstop.runtime.settings import RuntimeSettings

POLL_MS = 200
POLL_RECORDS = 2_000
FETCH_WAIT_MS = 50
STALL_S = 60.0
"""After this time without a record or a step of a position the broker counts as unavailable."""

REQUEST_TIMEOUT_MS = 20_000


async def read_to(consumer: Any, ends: Mapping[TopicPartition, int]) -> AsyncGenerator[dict[TopicPartition, list[Any]]]:
    """The records of assigned partitions from their positions to `ends` (exclusive), a dictionary for each poll.

    At the end the positions are `ends`: what was fetched beyond them is fetched again.

    :raises KafkaTimeoutError: no record came and no position moved for `STALL_S`.
    """
    loop = asyncio.get_running_loop()
    open_ones = {tp for tp, end in ends.items() if await consumer.position(tp) < end}
    positions, moved_s = dict[TopicPartition, int](), loop.time()
    while open_ones:
        found = await consumer.getmany(*sorted(open_ones), timeout_ms=POLL_MS, max_records=POLL_RECORDS)
        kept = {tp: [record for record in records if record.offset < ends[tp]] for tp, records in found.items()}
        if batches := {tp: records for tp, records in kept.items() if records}:
            yield batches
        before, positions = positions, {tp: await consumer.position(tp) for tp in open_ones}
        for tp in [tp for tp, position in positions.items() if position >= ends[tp]]:
            open_ones.discard(tp)
            if positions[tp] > ends[tp]:
                consumer.seek(tp, ends[tp])
        if positions != before:
            moved_s = loop.time()
        elif loop.time() - moved_s > STALL_S:
            raise KafkaTimeoutError(f"no record or progress for {STALL_S:g} s in {sorted(open_ones)}")


class TopicReader:
    """Reads partitions forward: each `read` continues where the last one of the same partition ended.

    Not safe for concurrent use. Created by `open_reader`. All methods raise BrokerUnavailableError.
    """

    def __init__(self, consumer: AIOKafkaConsumer, prefix: str, counts: Mapping[str, int]) -> None:
        self._consumer = consumer
        self._prefix = prefix
        self._counts = counts
        self._next: dict[Partition, int] = {}

    def partitions(self, topic: str) -> list[Partition]:
        """All partitions of a topic.

        :raises ConfigurationError: the topic does not exist under the prefix.
        """
        count = self._counts.get(f"{self._prefix}{topic}", 0)
        if not count:
            raise ConfigurationError(
                f"topic {self._prefix}{topic} does not exist: check BACKSTOP_TOPIC_PREFIX and the broker, or run "
                "`backstop topics check`"
            )
        return [(topic, partition) for partition in range(count)]

    def has(self, topic: str) -> bool:
        return f"{self._prefix}{topic}" in self._counts

    def partition_of(self, topic: str, key: bytes) -> Partition:
        """The partition of a key by Kafka's default partitioner, which all of Backstop's producers use."""
        return topic, (murmur2(key) & 0x7FFFFFFF) % len(self.partitions(topic))

    async def begins(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Each partition's first retained offset; above 0 if retention has truncated it."""
        return await self._offsets(self._consumer.beginning_offsets, partitions)

    async def ends(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """The offset after each partition's last committed record."""
        return await self._offsets(self._consumer.end_offsets, partitions)

    async def offsets_at(self, partitions: Collection[Partition], at_ms: int) -> dict[Partition, int]:
        """The offset of each partition's first record stamped `at_ms` or later; its end if there is none."""
        offsets = await self.ends(partitions)
        if partitions:
            with broker_errors("offsets of a time"):
                found = await self._consumer.offsets_for_times({self._to(p): max(0, at_ms) for p in partitions})
            offsets |= {self._from(tp): at.offset for tp, at in found.items() if at is not None}
        return offsets

    def seek(self, positions: Mapping[Partition, int]) -> None:
        """Let the next `read` of these partitions begin there."""
        self._next |= positions

    async def seek_time(self, partitions: Collection[Partition], since_ms: int) -> None:
        """Let the next `read` of these partitions begin at the first record stamped `since_ms` or later."""
        self.seek(await self.offsets_at(partitions, since_ms))

    async def read(self, ends: Mapping[Partition, int]) -> AsyncGenerator[list[Record]]:
        """Batches, each of one partition in offset order, up to the given ends (exclusive)."""
        async with aclosing(self.read_polls(ends)) as polls:
            async for batches in polls:
                for records in batches.values():
                    yield records

    async def read_polls(self, ends: Mapping[Partition, int]) -> AsyncGenerator[dict[Partition, list[Record]]]:
        """As `read`, but all partitions of a poll together."""
        self._next |= await self.begins([partition for partition in ends if partition not in self._next])
        open_ones = {self._to(partition): end for partition, end in ends.items() if self._next[partition] < end}
        if not open_ones:
            return
        with broker_errors("read"):
            self._consumer.assign(sorted(open_ones))
            for tp in open_ones:
                self._consumer.seek(tp, self._next[self._from(tp)])
            async with aclosing(read_to(self._consumer, open_ones)) as polls:
                async for raws in polls:
                    batches = {self._from(tp): batch for tp, batch in raws.items()}
                    yield {
                        partition: [record_of(raw, partition[0]) for raw in batch]
                        for partition, batch in batches.items()
                    }
                    self._next |= {partition: batch[-1].offset + 1 for partition, batch in batches.items()}
        self._next |= {self._from(tp): end for tp, end in open_ones.items()}

    async def read_all(self, partitions: Collection[Partition], key: bytes | None = None) -> list[Record]:
        """All records of these partitions up to now, in memory; only those with `key` if it is given."""
        ends = await self.ends(partitions)
        return [
            record
            async for batch in self.read(ends)
            for record in batch
            if key is None or record.key == key
        ]  # fmt: skip

    async def peek(self, partition: Partition) -> Record | None:
        """The first retained record, or None. The next `read` is not affected."""
        before = self._next.pop(partition, None)
        try:
            async with aclosing(self.read(await self.ends([partition]))) as batches:
                async for batch in batches:
                    return batch[0]
            return None
        finally:
            self.rewind(partition)
            if before is not None:
                self._next[partition] = before

    def rewind(self, partition: Partition) -> None:
        """Let the next `read` start at the beginning again."""
        self._next.pop(partition, None)

    def position(self, partition: Partition) -> int:
        """Where the next `read` begins; 0 before the first `read`."""
        return self._next.get(partition, 0)

    async def _offsets(self, ask: Any, partitions: Collection[Partition]) -> dict[Partition, int]:
        if not partitions:
            return {}
        with broker_errors("offsets"):
            found = await ask([self._to(partition) for partition in partitions])
        return {self._from(tp): offset for tp, offset in found.items()}

    def _to(self, partition: Partition) -> TopicPartition:
        return TopicPartition(f"{self._prefix}{partition[0]}", partition[1])

    def _from(self, tp: TopicPartition) -> Partition:
        return tp.topic.removeprefix(self._prefix), tp.partition


@asynccontextmanager
async def open_reader(
    settings: RuntimeSettings, isolation: Literal["read_committed", "read_uncommitted"] = "read_committed"
) -> AsyncIterator[TopicReader]:
    """A reader of the topics that exist under the prefix now.

    :raises BrokerUnavailableError: no broker answers.
    """
    counts = await _partition_counts(settings)
    with broker_errors(f"the broker at {settings.kafka_bootstrap_servers}"):
        consumer = AIOKafkaConsumer(
            **client_options(settings),
            client_id="backstop-reader",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=isolation,
            fetch_max_wait_ms=FETCH_WAIT_MS,
        )
        async with running(consumer):
            yield TopicReader(consumer, settings.topic_prefix, counts)


async def _partition_counts(settings: RuntimeSettings) -> dict[str, int]:
    try:
        admin = AIOKafkaAdminClient(
            **client_options(settings), client_id="backstop-reader", request_timeout_ms=REQUEST_TIMEOUT_MS
        )
        async with running(admin):
            # Describes all topics instead of naming ours: with auto.create.topics.enable a broker creates every topic
            # named.
            described = await admin.describe_topics()
    except (KafkaError, OSError) as error:
        told = await why_unusable(settings, error)
        raise told.error() from error
    return {
        entry["topic"]: len(entry["partitions"])
        for entry in described
        if entry["error_code"] == 0 and entry["topic"].startswith(settings.topic_prefix)
    }
