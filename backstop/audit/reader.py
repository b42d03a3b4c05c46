"""Reads topics from their beginning, or from a time, to their present end. Leaves no trace on the broker.

No group, no commits. The consumer's position decides when a partition is read to its end, not the last record seen:
offsets have gaps (transaction markers, compaction), and the last offset before the end may hold no record.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from backstop.audit.records import Partition, Placed
from backstop.runtime.errors import BrokerUnavailableError, ConfigurationError
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.lifetimes import started, stopped
from backstop.runtime.settings import RuntimeSettings

POLL_MS = 500
POLL_RECORDS = 2_000
FETCH_WAIT_MS = 50
STALL_S = 60.0
"""After this time without a record or a step of a position the broker counts as unavailable."""

REQUEST_TIMEOUT_MS = 20_000


class TopicReader:
    """Reads partitions forward: each `read` continues where the last one of the same partition ended.

    Not safe for concurrent use. Created by `open_reader`.
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

    async def seek_time(self, partitions: Collection[Partition], since_ms: int) -> None:
        """Let the next `read` of these partitions begin at the first record stamped `since_ms` or later."""
        if not partitions:
            return
        try:
            found = await self._consumer.offsets_for_times({self._to(p): since_ms for p in partitions})
        except KafkaError as error:
            raise BrokerUnavailableError(f"offsets of a time: {error!r}") from error
        ends = await self.ends(partitions)
        for partition in partitions:
            at = found.get(self._to(partition))
            self._next[partition] = ends[partition] if at is None else at.offset

    async def read(self, ends: Mapping[Partition, int]) -> AsyncGenerator[list[Placed], None]:
        """Batches, each of one partition in offset order, up to the given ends (exclusive).

        :raises BrokerUnavailableError: the broker became unavailable.
        """
        begins = await self.begins([partition for partition in ends if partition not in self._next])
        for partition, begin in begins.items():
            self._next[partition] = begin
        open_ones = {partition for partition, end in ends.items() if self._next[partition] < end}
        if not open_ones:
            return
        self._consumer.assign([self._to(partition) for partition in sorted(open_ones)])
        for partition in open_ones:
            self._consumer.seek(self._to(partition), self._next[partition])
        progress = asyncio.get_running_loop().time()
        while open_ones:
            batches = await self._poll(open_ones)
            for partition, records in batches.items():
                placed = [self._placed(partition, record) for record in records if record.offset < ends[partition]]
                if placed:
                    yield placed
            moved = await self._advance(open_ones, ends)
            now = asyncio.get_running_loop().time()
            if moved:
                progress = now
            elif now - progress > STALL_S:
                raise BrokerUnavailableError(f"no record or progress for {STALL_S:g} s in {sorted(open_ones)}")

    async def read_all(self, partitions: Collection[Partition], key: bytes | None = None) -> list[Placed]:
        """All records of these partitions up to now, in memory; only those with `key` if it is given."""
        ends = await self.ends(partitions)
        return [
            record
            async for batch in self.read(ends)
            for record in batch
            if key is None or record.key == key
        ]  # fmt: skip

    async def peek(self, partition: Partition) -> Placed | None:
        """The first retained record, or None. The next `read` is not affected."""
        before = self._next.pop(partition, None)
        try:
            async with aclosing(self.read(await self.ends([partition]))) as batches:
                async for batch in batches:
                    return batch[0]
            return None
        finally:
            self._next.pop(partition, None)
            if before is not None:
                self._next[partition] = before

    def rewind(self, partition: Partition) -> None:
        """Let the next `read` start at the beginning again."""
        self._next.pop(partition, None)

    def position(self, partition: Partition) -> int:
        """Where the next `read` begins; 0 before the first `read`."""
        return self._next.get(partition, 0)

    async def _poll(self, open_ones: Iterable[Partition]) -> dict[Partition, list[Any]]:
        try:
            found = await self._consumer.getmany(
                *(self._to(partition) for partition in open_ones), timeout_ms=POLL_MS, max_records=POLL_RECORDS
            )
        except KafkaError as error:
            raise BrokerUnavailableError(f"poll: {error!r}") from error
        return {(tp.topic.removeprefix(self._prefix), tp.partition): records for tp, records in found.items()}

    async def _advance(self, open_ones: set[Partition], ends: Mapping[Partition, int]) -> bool:
        """Store the positions; pause and remove the partitions that reached their end. Whether any position moved."""
        moved = False
        for partition in sorted(open_ones):
            try:
                position = await self._consumer.position(self._to(partition))
            except KafkaError as error:
                raise BrokerUnavailableError(f"position: {error!r}") from error
            moved = moved or position > self._next[partition]
            if position >= ends[partition]:
                # Records past the end were fetched but not returned: the next `read` fetches them again.
                self._next[partition] = ends[partition]
                self._consumer.pause(self._to(partition))
                open_ones.discard(partition)
            else:
                self._next[partition] = position
        return moved

    async def _offsets(self, ask: Any, partitions: Collection[Partition]) -> dict[Partition, int]:
        if not partitions:
            return {}
        try:
            found = await ask([self._to(partition) for partition in partitions])
        except KafkaError as error:
            raise BrokerUnavailableError(f"offsets: {error!r}") from error
        return {(tp.topic.removeprefix(self._prefix), tp.partition): offset for tp, offset in found.items()}

    def _to(self, partition: Partition) -> TopicPartition:
        return TopicPartition(f"{self._prefix}{partition[0]}", partition[1])

    def _placed(self, partition: Partition, record: Any) -> Placed:
        return Placed(*partition, record.offset, record.timestamp, record.key, record.value, tuple(record.headers))


@asynccontextmanager
async def open_reader(settings: RuntimeSettings) -> AsyncIterator[TopicReader]:
    """A reader of the topics that exist under the prefix now.

    :raises BrokerUnavailableError: no broker answers.
    """
    counts = await _partition_counts(settings)
    consumer = AIOKafkaConsumer(
        **client_options(settings),
        client_id="backstop-audit",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )
    try:
        await started(consumer)
        yield TopicReader(consumer, settings.topic_prefix, counts)
    except (KafkaError, OSError) as error:
        raise BrokerUnavailableError(f"the broker at {settings.kafka_bootstrap_servers}: {error!r}") from error
    finally:
        await stopped(consumer)


async def _partition_counts(settings: RuntimeSettings) -> dict[str, int]:
    admin = AIOKafkaAdminClient(
        **client_options(settings), client_id="backstop-audit", request_timeout_ms=REQUEST_TIMEOUT_MS
    )
    try:
        await started(admin)
        # Describes all topics instead of naming ours: with auto.create.topics.enable a broker creates every topic
        # named.
        described = await admin.describe_topics()
    except (KafkaError, OSError) as error:
        raise BrokerUnavailableError(
            f"no Kafka broker answers at {settings.kafka_bootstrap_servers} ({error!r}); "
            "start one (`backstop broker up`) or set KAFKA_BOOTSTRAP_SERVERS"
        ) from error
    finally:
        await stopped(admin)
    return {
        entry["topic"]: len(entry["partitions"])
        for entry in described
        if entry["error_code"] == 0 and entry["topic"].startswith(settings.topic_prefix)
    }
