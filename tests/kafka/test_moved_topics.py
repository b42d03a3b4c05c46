"""What `backstop topics move` makes of topics that are there, without processes: the short form of `test_move.py`."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from backstop.audit.refold import FOLDS, PartitionRefold, changelog
from backstop.dev.broker import Owned
from backstop.runtime.kafka.publisher import partition_of
from backstop.runtime.kafka.topics import create_topics
from backstop.runtime.process.clock import make_clock
from backstop.runtime.records import Record, record_of
from backstop.runtime.settings import RuntimeSettings
from schemas.codec import encode
from tests.kafka.recorded import Ran, ran_here
from tests.support.reading import records_on
from tests.unit.backstop.readmodel.logs import whole_job

BEFORE, AFTER = 2, 5
JOBS = 30
TAIL = 3
"""Records of each partition of `jobs` that no worker has committed."""
HOUR_MS = 3_600_000


def folded(records: list[Record], log: str) -> dict[bytes, bytes]:
    """The rows of one log, by the fold of each partition."""
    rows: dict[bytes, bytes] = {}
    for number in {record.partition for record in records}:
        refold = PartitionRefold(FOLDS[log], number)
        refold.take([record for record in records if record.partition == number])
        rows |= refold.rows
    return rows


class PrefixTopics:
    """The topics of one prefix."""

    def __init__(self, bootstrap: str, prefix: str, partitions: int) -> None:
        self.bootstrap, self.prefix, self.partitions = bootstrap, prefix, partitions

    async def make(self) -> None:
        await create_topics(
            RuntimeSettings(
                kafka_bootstrap_servers=self.bootstrap, topic_prefix=self.prefix, partitions=self.partitions
            )
        )

    async def records(self, topic: str) -> list[Record]:
        return [record_of(raw, topic) for raw in await records_on(self.bootstrap, f"{self.prefix}{topic}")]

    async def fill(self) -> None:
        """The facts of whole jobs, an hour apart, and the rows that a worker would have written."""
        numbers, now_ms = range(self.partitions), make_clock()()
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, enable_idempotence=True, acks="all")
        await producer.start()
        try:
            for number in range(JOBS):
                for fact in whole_job(f"job-{number}", f"resp_{number}"):
                    key = fact.key.encode()
                    await producer.send(
                        f"{self.prefix}{fact.topic}", encode(fact), key=key,
                        partition=partition_of(key, numbers, numbers),
                        timestamp_ms=now_ms - HOUR_MS * (JOBS - number), headers=[("n", str(number).encode())],
                    )  # fmt: skip
            await producer.flush()
            for log in FOLDS:
                for key, row in folded(await self.records(log), log).items():
                    await producer.send(
                        f"{self.prefix}{changelog(log)}", row, key=key, partition=partition_of(key, numbers, numbers)
                    )
            await producer.flush()
        finally:
            await producer.stop()

    async def places(self, group: str, topic: str, change: Mapping[int, int] | None = None) -> dict[int, int]:
        """The group's places, after a commit of others."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, group_id=f"{self.prefix}{group}", enable_auto_commit=False
        )
        await consumer.start()
        try:
            tps = [TopicPartition(f"{self.prefix}{topic}", number) for number in range(self.partitions)]
            consumer.assign(tps)
            if change:
                await consumer.commit({tp: change[tp.partition] for tp in tps})
            return {tp.partition: await consumer.committed(tp) or 0 for tp in tps}
        finally:
            await consumer.stop()

    async def cut(self, topic: str, partition: int, before: int) -> None:
        """As retention does it."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.delete_records({TopicPartition(f"{self.prefix}{topic}", partition): RecordsToDelete(before)})
        finally:
            await admin.close()


def move(old: PrefixTopics, new: PrefixTopics, folder: Path, *arguments: str) -> Ran:
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": new.bootstrap, "BACKSTOP_TOPIC_PREFIX": new.prefix,
        "BACKSTOP_PARTITIONS": str(new.partitions), "BACKSTOP_STATE_DIR": str(folder), "BACKSTOP_DATA_DIR": str(folder),
    }  # fmt: skip
    return ran_here(("topics", "move", "--from", old.prefix, *arguments), environment)


def by_key(records: list[Record]) -> dict[bytes | None, list[tuple[Any, ...]]]:
    found: dict[bytes | None, list[tuple[Any, ...]]] = {}
    for record in sorted(records, key=lambda each: (each.partition, each.offset)):
        found.setdefault(record.key, []).append((record.timestamp_ms, record.value, record.headers))
    return found


def test_records_rows_and_places_are_carried_over(broker: Owned, prefix: str, tmp_path: Path) -> None:
    old, new = (
        PrefixTopics(broker.bootstrap, f"{prefix}old.", BEFORE),
        PrefixTopics(broker.bootstrap, f"{prefix}new.", AFTER),
    )
    ends = asyncio.run(filled(old, new))
    moved = move(old, new, tmp_path, "--execute", "-o", "json")
    assert moved.code == 0, moved.err
    again = move(old, new, tmp_path, "--execute")
    assert (again.code, "the new topics have records" in again.err) == (2, True), again.err
    asyncio.run(same(old, new, ends))


async def filled(old: PrefixTopics, new: PrefixTopics) -> dict[int, int]:
    """The places of the worker in `jobs`."""
    await old.make()
    await new.make()
    await old.fill()
    records = await old.records("jobs")
    counts = {number: sum(record.partition == number for record in records) for number in range(BEFORE)}
    return await old.places("worker", "jobs", {number: count - TAIL for number, count in counts.items()})


async def same(old: PrefixTopics, new: PrefixTopics, places: Mapping[int, int]) -> None:
    for topic in ("jobs", "responses", "results"):
        before, after = await old.records(topic), await new.records(topic)
        assert by_key(after) == by_key(before), topic
        assert {record.partition for record in after} == set(range(AFTER)), topic
        for record in after:
            assert record.partition == partition_of(record.key, range(AFTER), range(AFTER))
    for log in FOLDS:
        rows = {record.key: record.value for record in await new.records(changelog(log))}
        assert rows == folded(await new.records(log), log), "each row is the fold of the new log, with its offsets"
    reached = await new.places("worker", "jobs")
    behind = [record for record in await new.records("jobs") if record.offset >= reached[record.partition]]
    not_taken = [record for record in await old.records("jobs") if record.offset >= places[record.partition]]
    assert by_key(behind) == by_key(not_taken)
    assert len(behind) == BEFORE * TAIL


def test_the_copy_of_a_log_that_retention_has_cut_begins_where_all_of_it_is_kept(
    broker: Owned, prefix: str, tmp_path: Path
) -> None:
    old, new = (
        PrefixTopics(broker.bootstrap, f"{prefix}old.", BEFORE),
        PrefixTopics(broker.bootstrap, f"{prefix}new.", AFTER),
    )
    asyncio.run(filled(old, new))
    before = asyncio.run(old.records("results"))
    cut = [record for record in before if record.partition == 1]
    asyncio.run(old.cut("results", 1, cut[4].offset))
    moved = move(old, new, tmp_path, "--execute")
    assert moved.code == 0, moved.err
    kept = [record for record in before if record.timestamp_ms >= cut[4].timestamp_ms]
    after = asyncio.run(new.records("results"))
    assert by_key(after) == by_key(kept)
    assert min(record.offset for record in after) == 1, "so the audit sees that it is cut"
