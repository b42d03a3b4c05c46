"""Records from memory beside records from aiokafka's own fetcher: each once, in the order of the log.

The broker is a log in memory; the fetcher, the positions and the pauses are aiokafka's.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.protocol.fetch import FetchResponse_v4

from backstop.runtime.records import Record
from backstop.runtime.settings import RuntimeSettings
from streams.workers.handed_group import HandedGroup
from tests.hostile.batches import TP, Batch, record

PREFIX, _, TOPIC = TP.topic.rpartition(".")
RECORDS = 150


class Leader:
    """Client, cluster and broker in one: the part of each that the fetcher calls. It holds an empty fetch."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._metadata_max_age_ms = 60_000
        self.cluster = self
        self._grown = asyncio.Event()
        self._batches: list[bytes] = []
        self.fetches = 0

    @property
    def end(self) -> int:
        return len(self._batches)

    def append(self) -> Record:
        offset = self.end
        self._batches.append(Batch((record(b"%d" % offset),), base=offset).bytes())
        self._grown.set()
        self._grown = asyncio.Event()
        return Record(TP.topic, TP.partition, offset, 1_000, b"k", b"%d" % offset)

    def leader_for_partition(self, _tp: object) -> int:
        return 1

    async def send(self, _node: int, request: Any) -> Any:
        ((topic, ((partition, offset, _),)),) = request.topics
        self.fetches += 1
        if offset >= self.end:
            try:
                async with asyncio.timeout(request._max_wait_ms / 1_000):
                    await self._grown.wait()
            except TimeoutError:
                pass
        end, data = self.end, b"".join(self._batches[offset:])
        await asyncio.sleep(0.001)
        return FetchResponse_v4(0, [(topic, [(partition, 0, end, end, [], data)])])


class Consumer:
    """An `AIOKafkaConsumer` without a group: what `HandedGroup` uses of it, over a real fetcher."""

    def __init__(self, fetcher: Any, subscriptions: SubscriptionState) -> None:
        self._fetcher = fetcher
        self._subscription = subscriptions
        self._coordinator = SimpleNamespace(generation=1)
        self.seek = fetcher.seek_to
        self.pause = subscriptions.pause
        self.resume = subscriptions.resume
        self._listener: Any = None

    def __call__(self, **_options: Any) -> "Consumer":
        return self

    def subscribe(self, _topics: list[str], listener: Any) -> None:
        self._listener = listener

    async def start(self) -> None:
        await self._listener.on_partitions_assigned([TP])

    async def getmany(self, *, timeout_ms: int, max_records: int) -> Any:
        with self._subscription.fetch_context():
            return await self._fetcher.fetched_records((), timeout_ms / 1_000, max_records=max_records)


@asynccontextmanager
async def joined() -> AsyncIterator[tuple[HandedGroup, Leader]]:
    subscriptions, leader = SubscriptionState(), Leader()
    subscriptions.assign_from_user({TP})
    subscriptions.subscription.assignment.state_value(TP).seek(0)
    fetcher = Fetcher(leader, subscriptions, isolation_level="read_committed")
    consumer = Consumer(fetcher, subscriptions)
    group = HandedGroup(RuntimeSettings(topic_prefix=f"{PREFIX}."), topic=TOPIC, group="g", consumer=consumer)
    await group.join()
    try:
        yield group, leader
    finally:
        await fetcher.close()


async def read(group: HandedGroup, count: int, room: Callable[[], int] = lambda: 100) -> list[int]:
    """The offsets of the next `count` records, and the values: those of the log."""
    offsets: list[int] = []
    async with asyncio.timeout(20):
        while len(offsets) < count:
            for records in (await group.take(room(), 50)).by_partition.values():
                offsets += [each.offset for each in records]
                assert [each.value for each in records] == [b"%d" % each.offset for each in records]
    return offsets


@pytest.mark.parametrize("seed", range(6))
def test_each_record_is_taken_once_in_the_order_of_the_log(seed: int) -> None:
    async def case() -> tuple[list[int], int]:
        random, loop = Random(seed), asyncio.get_running_loop()
        foreign, lost = random.choice(((0.0, 0.0), (0.1, 0.0), (0.3, 0.2), (0.9, 0.0)))
        async with joined() as (group, leader):
            reading = asyncio.create_task(read(group, RECORDS, lambda: random.choice((1, 2, 100))))
            for _ in range(RECORDS):
                written = leader.append()
                if random.random() >= foreign and random.random() >= lost:
                    loop.call_later(random.choice((0, 0, 0, 0.002)), group.landed, written)
                await asyncio.sleep(random.choice((0, 0, 0.001, 0.004)))
            return await reading, group.handed

    offsets, handed = asyncio.run(case())
    assert offsets == list(range(RECORDS))
    assert handed > 0


def test_a_log_of_own_records_only_is_hardly_fetched() -> None:
    async def case() -> tuple[list[int], int, int]:
        async with joined() as (group, leader):
            reading = asyncio.create_task(read(group, RECORDS))
            for _ in range(RECORDS):
                group.landed(leader.append())
                await asyncio.sleep(0.002)
            return await reading, group.handed, leader.fetches

    offsets, handed, fetches = asyncio.run(case())
    assert offsets == list(range(RECORDS))
    assert handed == RECORDS
    assert fetches <= 3
