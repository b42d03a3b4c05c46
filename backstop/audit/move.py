"""`backstop topics move`: copies all that Backstop must keep to the topics of another prefix, with another number of
partitions, while no process runs.

The old topics are read only. Logs first, then the tables' changelogs with the offsets of the new logs, then the places
of the consumer groups: records behind a group's place are copied behind all that stand before it in any partition, so
that one offset divides them again. So nothing is folded, sent or published a second time.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from backstop.audit import moving
from backstop.audit.refold import changelog
from backstop.audit.verify import Progress, silent
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.groups import GroupReader
from backstop.runtime.kafka.holdings import GroupSeen
from backstop.runtime.kafka.lifetimes import broker_errors, running
from backstop.runtime.kafka.publisher import partition_of
from backstop.runtime.kafka.topic_reader import TopicReader, open_reader
from backstop.runtime.kafka.topics import require_topics
from backstop.runtime.process.clock import make_clock
from backstop.runtime.record_sizes import RECORD_BYTES_MAX
from backstop.runtime.records import Partition, Record
from backstop.runtime.settings import RuntimeSettings
from schemas.unreadable import Unreadable

CLIENT_ID: Final = "backstop-move"
LINGER_MS: Final = 5
SEND_TIMEOUT_MS: Final = 60_000
FILLER: Final = b"move"
"""A key, as a compacted topic takes no record without one."""

Offsets = dict[Partition, int]


@dataclass(frozen=True, slots=True)
class TopicMoved:
    topic: str
    records: int
    partitions_before: int
    partitions: int


class NewTopics:
    """The new topics. Only this process writes to them, so the number of records is the next offset."""

    def __init__(self, producer: AIOKafkaProducer, prefix: str, counts: Mapping[str, int]) -> None:
        self._producer = producer
        self._prefix = prefix
        self._counts = counts
        self.next: Counter[Partition] = Counter()

    async def send(self, topic: str, records: Iterable[Record]) -> list[int]:
        """Append copies; each one's offset."""
        waits, offsets = [], []
        numbers = range(self._counts[topic])
        for record in records:
            number = partition_of(record.key, numbers, numbers)
            offsets.append(self.next[topic, number])
            self.next[topic, number] += 1
            waits.append(await self._append(topic, number, record))
        for wait in waits:
            await wait
        return offsets

    async def fill(self, topic: str) -> None:
        """One record in each partition, to be removed at the end: the copy of a truncated log begins above 0, too."""
        for number in range(self._counts[topic]):
            self.next[topic, number] += 1
            await (await self._append(topic, number, Record(topic, number, 0, 0, FILLER, b"")))

    def ends(self, topic: str) -> Offsets:
        return {(topic, number): self.next[topic, number] for number in range(self._counts[topic])}

    async def _append(self, topic: str, number: int, record: Record) -> "asyncio.Future[Any]":
        sent: asyncio.Future[Any] = await self._producer.send(
            f"{self._prefix}{topic}", value=record.value, key=record.key, partition=number,
            timestamp_ms=record.timestamp_ms or None, headers=list(record.headers),
        )  # fmt: skip
        return sent


class Copying:
    def __init__(
        self, source: TopicReader, target: NewTopics, groups: Mapping[str, GroupSeen], progress: Progress
    ) -> None:
        self._source = source
        self._target = target
        self._groups = groups
        self._progress = progress
        self._tables = moving.tables()
        self._done = self._total = 0
        self.ends: Offsets = {}
        """Of the old topics, as they were read."""
        self.commits: dict[str, Offsets] = {}
        """By group: its places in the new topics."""
        self.truncated: set[str] = set()

    async def run(self, topics: Sequence[str]) -> None:
        for log, rows in self._tables.items():
            if not self._source.has(changelog(log)):
                continue
            partitions = self._source.partitions(changelog(log))
            async for batch in self._source.read(await self._source.ends(partitions)):
                for record in batch:
                    rows.take(record)
        for topic in topics:
            await self._topic(topic)
        for log, rows in self._tables.items():
            await self._target.send(
                changelog(log), [Record(changelog(log), 0, 0, 0, key, row) for key, row in rows.rows()]
            )

    async def _topic(self, topic: str) -> None:
        partitions = self._source.partitions(topic)
        begins, ends = await self._source.begins(partitions), await self._source.ends(partitions)
        self.ends |= ends
        starts, first_ms = await self._starts(topic, begins, ends)
        group = moving.reader_of(topic)
        seen = self._groups.get(group) if group is not None else None
        known = ends if seen is None else seen.committed
        reached = moving.between(known, starts, ends)
        self._source.seek(starts)
        self._total += sum(ends[partition] - starts[partition] for partition in partitions)
        await self._copy(topic, first_ms, starts, reached)
        if group is not None and known:  # a group that never was here begins as it would have
            self.commits.setdefault(group, {}).update(self._target.ends(topic))
        await self._copy(topic, first_ms, reached, ends)

    async def _starts(self, topic: str, begins: Offsets, ends: Offsets) -> tuple[Offsets, int]:
        """Where to begin, and the time of it. Where retention has cut the log, at the time from which all partitions
        still have it: the new partitions are then whole from their beginnings on, as those of any log.
        """
        firsts = {partition: await self._source.peek(partition) for partition in begins}
        times_ms = [first.timestamp_ms for first in firsts.values() if first is not None]
        cut_ms = [first.timestamp_ms for p, first in firsts.items() if begins[p] and first is not None]
        if not any(begins.values()):
            return begins, min(times_ms, default=0)
        self.truncated.add(topic)
        await self._target.fill(topic)
        if not cut_ms:
            return begins, min(times_ms, default=0)
        return moving.between(await self._source.offsets_at(list(begins), max(cut_ms)), begins, ends), max(cut_ms)

    async def _copy(self, topic: str, first_ms: int, starts: Offsets, ends: Offsets) -> None:
        if starts == ends:
            return
        at = starts
        for until_ms in moving.slice_ends_ms(first_ms, make_clock()()):
            at = moving.between(await self._source.offsets_at(list(ends), until_ms), at, ends)
            await self._copy_to(topic, at)
            if at == ends:
                return
        await self._copy_to(topic, ends)

    async def _copy_to(self, topic: str, ends: Offsets) -> None:
        rows = self._tables.get(topic)
        async for batch in self._source.read(ends):
            for record in batch:
                if isinstance(record.value, Unreadable):
                    raise ConfigurationError(
                        f"{record.place} can't be read, so it can't be copied: {record.value.detail}"
                    )
            offsets = await self._target.send(topic, batch)
            for record, offset in zip(batch, offsets, strict=True):
                if rows is not None:
                    rows.landed(record, offset)
            self._done += len(batch)
            self._progress(topic, self._done, self._total)


async def plan(old: RuntimeSettings, new: RuntimeSettings, consumers: Collection[str]) -> list[TopicMoved]:
    """What would be copied.

    :raises ConfigurationError: a move can't begin; says why, and what to do.
    """
    async with _both(old, new) as (source, target):
        await _checked(old, new, source, target)
        await _consumers_are_done(old, consumers, source)
        return [await _counted(topic, source, target) for topic in moving.moved_topics(new.request_tenants)]


async def move(
    old: RuntimeSettings, new: RuntimeSettings, consumers: Collection[str], progress: Progress = silent
) -> list[TopicMoved]:
    """Copy everything.

    :param consumers: full names of groups of other programs that read `results` to its end; they go on at the end of
        the new one.
    :raises ConfigurationError: as `plan`; or a process wrote to the old topics meanwhile.
    :raises BrokerUnavailableError: broken off. The new topics are of no use then.
    """
    topics = moving.moved_topics(new.request_tenants)
    async with _both(old, new) as (source, target):
        groups = await _checked(old, new, source, target)
        await _consumers_are_done(old, consumers, source)
        counts = {topic: len(target.partitions(topic)) for topic in (*topics, *map(changelog, moving.tables()))}
        producer = AIOKafkaProducer(
            **client_options(new), client_id=CLIENT_ID, enable_idempotence=True, acks="all", linger_ms=LINGER_MS,
            request_timeout_ms=SEND_TIMEOUT_MS, max_request_size=RECORD_BYTES_MAX,
        )  # fmt: skip
        with broker_errors("broken off; the new topics are of no use"):
            async with running(producer):
                into = NewTopics(producer, new.topic_prefix, counts)
                copying = Copying(source, into, groups, progress)
                await copying.run(topics)
        if await source.ends(list(copying.ends)) != copying.ends:
            raise ConfigurationError(
                "a process wrote to the old topics meanwhile (a `backstop serve`, or an upstream service?): stop it, "
                "delete the new topics, and begin again"
            )
        await _drop_fillers(new, into, copying.truncated)
        for group, offsets in copying.commits.items():
            await _commit(new, f"{new.topic_prefix}{group}", offsets)
        for name in consumers:
            await _commit(new, name, into.ends("results"))
        return [await _counted(topic, source, target) for topic in topics]


@asynccontextmanager
async def _both(old: RuntimeSettings, new: RuntimeSettings) -> AsyncIterator[tuple[TopicReader, TopicReader]]:
    if old.topic_prefix == new.topic_prefix:
        raise ConfigurationError("the new topics need another prefix: set BACKSTOP_TOPIC_PREFIX to it")
    await require_topics(new)
    async with open_reader(old) as source, open_reader(new) as target:
        yield source, target


async def _checked(
    old: RuntimeSettings, new: RuntimeSettings, source: TopicReader, target: TopicReader
) -> dict[str, GroupSeen]:
    """The groups of the old prefix, with their places."""
    topics = moving.moved_topics(new.request_tenants)
    old_partitions = [partition for topic in topics for partition in source.partitions(topic)]
    committed = await source.ends(old_partitions)
    async with open_reader(old, "read_uncommitted") as everything:
        written = await everything.ends(old_partitions)
    new_partitions = [p for topic in (*topics, *map(changelog, moving.tables())) for p in target.partitions(topic)]
    filled = {topic for (topic, _), end in (await target.ends(new_partitions)).items() if end}
    before, after = await _groups(old, moving.GROUPS), await _groups(new, moving.GROUPS)
    moving.refuse(
        moving.BeforeMove(
            {
                f"{settings.topic_prefix}{group.name}": {member.client_id for member in group.members}
                for settings, groups in ((old, before), (new, after))
                for group in groups.values()
            },
            {f"{new.topic_prefix}{topic}" for topic in filled},
            {f"{old.topic_prefix}{topic}" for (topic, n), end in written.items() if committed[topic, n] < end},
        )
    )
    return before


async def _groups(settings: RuntimeSettings, names: Sequence[str]) -> dict[str, GroupSeen]:
    reader = GroupReader(settings, names, (), make_clock())
    try:
        return {group.name: group for group in (await reader.snapshot()).groups}
    finally:
        await reader.close()


async def _consumers_are_done(old: RuntimeSettings, names: Collection[str], source: TopicReader) -> None:
    groups = await _groups(old.model_copy(update={"topic_prefix": ""}), sorted(names))
    ends = await source.ends(source.partitions("results"))
    for name, group in groups.items():
        # A marker of a fence may stand at the end: a reader stops before it.
        behind = sum(
            end - 1 > group.committed.get((f"{old.topic_prefix}results", number), 0)
            for (_, number), end in ends.items()
        )  # fmt: skip
        if behind or group.members:
            raise ConfigurationError(
                f"group {name} has members, or has not read all of {old.topic_prefix}results ({behind} partitions): "
                "let it read to the end, then stop it"
            )


async def _counted(topic: str, source: TopicReader, target: TopicReader) -> TopicMoved:
    partitions = source.partitions(topic)
    begins, ends = await source.begins(partitions), await source.ends(partitions)
    records = sum(ends[partition] - begins[partition] for partition in partitions)
    return TopicMoved(topic, records, len(partitions), len(target.partitions(topic)))


async def _commit(settings: RuntimeSettings, group: str, offsets: Offsets) -> None:
    consumer = AIOKafkaConsumer(
        **client_options(settings), client_id=CLIENT_ID, group_id=group, enable_auto_commit=False
    )
    places = {TopicPartition(f"{settings.topic_prefix}{topic}", number): at for (topic, number), at in offsets.items()}
    with broker_errors(f"the places of group {group}"):
        async with running(consumer):
            consumer.assign(list(places))
            await consumer.commit(places)


async def _drop_fillers(settings: RuntimeSettings, into: NewTopics, topics: Collection[str]) -> None:
    if not topics:
        return
    with broker_errors("the first records of truncated topics"):
        async with running(AIOKafkaAdminClient(**client_options(settings), client_id=CLIENT_ID)) as admin:
            await admin.delete_records(
                {
                    TopicPartition(f"{settings.topic_prefix}{topic}", number): RecordsToDelete(before_offset=1)
                    for topic in topics
                    for _, number in into.ends(topic)
                }
            )
