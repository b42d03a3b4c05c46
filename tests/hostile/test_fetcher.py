"""aiokafka's fetcher, and Faust's thread over it, as hardened by `backstop.runtime.kafka.hardened_fetch`.

The broker is a log in memory.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.protocol.fetch import FetchResponse_v4
from faust import types as faust_types

import backstop.runtime.kafka.client  # noqa: F401 - each of our processes imports it
from backstop.runtime.kafka.fetch_result import BYTES_AT_ONCE_MAX, RECORDS_AT_ONCE_MAX
from schemas.unreadable import Unreadable
from streams.faust.fetch import SourceFetcher
from tests.hostile.batches import TP, ZSTD, Batch, Headers, batches_from, record, zeros
from tests.support.waiting import eventually

BAD_NAME: Headers = ((b"\xff", b"x"),)
FETCH_WAIT_S = 0.005


class Leader:
    """Client, cluster and broker in one: the part of each that the fetcher calls."""

    def __init__(self, log: bytes, end: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._metadata_max_age_ms = 60_000
        self.cluster = self
        self._log = log
        self._end = end
        self.fetches = 0

    def leader_for_partition(self, _tp: object) -> int:
        return 1

    async def send(self, _node: int, request: Any) -> Any:
        ((topic, ((partition, offset, _),)),) = request.topics
        self.fetches += 1
        data = batches_from(self._log, offset) if offset < self._end else b""
        if not data:
            await asyncio.sleep(FETCH_WAIT_S)  # A broker holds a fetch until a record arrives.
        return FetchResponse_v4(0, [(topic, [(partition, 0, self._end, self._end, [], data)])])


@asynccontextmanager
async def fetching(log: bytes, end: int) -> AsyncIterator[tuple[Any, Any, Leader]]:
    """A fetcher from offset 0, the subscription, and the broker."""
    subscriptions, leader = SubscriptionState(), Leader(log, end)
    subscriptions.assign_from_user({TP})
    subscriptions.subscription.assignment.state_value(TP).seek(0)
    fetcher = Fetcher(leader, subscriptions, isolation_level="read_committed")
    try:
        yield fetcher, subscriptions, leader
    finally:
        await fetcher.close()


def seen(records: list[Any]) -> list[tuple[int, bool]]:
    return [(each.offset, isinstance(each.value, Unreadable)) for each in records]


HOSTILE = (
    Batch((record(b"a"),)).bytes()
    + Batch((record(headers=BAD_NAME),), base=1).bytes()
    + Batch(crc_off=1, base=2, delta=2).bytes()
    + Batch(codec=7, base=5).bytes()
    + Batch(codec=ZSTD, packed=zeros(ZSTD, 30), base=6).bytes()
    + Batch((record(b"b"),), base=7).bytes()
)
HOSTILE_SEEN = [(0, False), (1, True), (4, True), (5, True), (6, True), (7, False)]


def test_getmany_and_getone_step_over_what_cannot_be_read() -> None:
    async def story() -> None:
        async with fetching(HOSTILE, 8) as (fetcher, subscriptions, _):
            found: list[Any] = []

            async def all_read() -> bool:
                found.extend((await fetcher.fetched_records([], 0.2)).get(TP, []))
                return subscriptions.subscription.assignment.state_value(TP).position == 8

            await eventually(all_read, 10, "the end of the log")
            assert seen(found) == HOSTILE_SEEN
        async with fetching(HOSTILE, 8) as (fetcher, _, _):
            assert seen([await fetcher.next_record([]) for _ in HOSTILE_SEEN]) == HOSTILE_SEEN

    asyncio.run(story())


def test_a_consumer_takes_a_bounded_number_of_records_at_once_and_loses_none() -> None:
    async def story() -> None:
        count = 2 * RECORDS_AT_ONCE_MAX + 1
        log = Batch(tuple(record(b"", offset=n) for n in range(count))).bytes()
        async with fetching(log, count) as (fetcher, _, leader):
            sizes: list[int] = []

            async def all_read() -> bool:
                sizes.append(len((await fetcher.fetched_records([], 0.2)).get(TP, [])))
                return sum(sizes) == count

            await eventually(all_read, 10, "all records")
            assert sizes[0] == RECORDS_AT_ONCE_MAX
            assert max(sizes) == RECORDS_AT_ONCE_MAX
            assert leader.fetches <= 2

    asyncio.run(story())


def test_a_consumer_takes_a_bounded_number_of_bytes_at_once_and_loses_none() -> None:
    """Each batch is within the limit of one, and packs 24 MB into 1 KB: a fetch of 1 MiB would hold 24 GB of them."""

    async def story() -> None:
        value, per_batch = b"a" * 1_000_000, 24
        log = b"".join(
            Batch(tuple(record(value, offset=n) for n in range(per_batch)), base=base, codec=ZSTD).bytes()
            + Batch((record(None, key=value),), base=base + per_batch, codec=ZSTD).bytes()
            for base in (0, per_batch + 1)
        )
        assert len(log) < 10_000
        end = 2 * (per_batch + 1)
        async with fetching(log, end) as (fetcher, subscriptions, leader):
            taken: list[list[Any]] = []

            async def all_read() -> bool:
                taken.append((await fetcher.fetched_records([], 0.2)).get(TP, []))
                return subscriptions.subscription.assignment.state_value(TP).position == end

            await eventually(all_read, 20, "all records")
            assert [each.offset for records in taken for each in records] == list(range(end))
            sizes = [sum(len(each.value or each.key) for each in records) for records in taken]
            assert max(sizes) < BYTES_AT_ONCE_MAX + len(value)
            assert leader.fetches <= 2, "what is taken in turns is not fetched again"

    asyncio.run(story())


def test_fausts_thread_gives_chunks_that_follow_one_another_across_what_cannot_be_read() -> None:
    async def story() -> None:
        many = tuple(record(b"", offset=n) for n in range(RECORDS_AT_ONCE_MAX + 2))
        log = HOSTILE + Batch(many, base=8).bytes()
        end = 8 + len(many)
        tp = faust_types.TP(*TP)
        async with fetching(log, end) as (fetcher, _, _):
            thread = SourceFetcher.__new__(SourceFetcher)
            thread.wanted = frozenset({tp})
            chunks: list[Any] = []

            def all_read() -> bool:
                chunks.extend(thread._take(fetcher).values())
                return bool(chunks) and chunks[-1].end == end

            await eventually(all_read, 10, "the end of the log")
            assert [chunk.start for chunk in chunks] == [0, *(chunk.end for chunk in chunks[:-1])]
            records = [each for chunk in chunks for each in chunk.records]
            assert seen(records[:6]) == HOSTILE_SEEN
            assert [each.offset for each in records[6:]] == list(range(8, end))
            assert max(len(chunk.records) for chunk in chunks) <= RECORDS_AT_ONCE_MAX

    asyncio.run(story())
