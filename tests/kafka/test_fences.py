"""Writers with a fence on a real broker: only the newest appends, without a transaction for each batch."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError

from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.fences import (
    BATCH_BYTES_MAX,
    Fence,
    FencedOffError,
    FencedRecord,
    FencedWriter,
    FencedWriters,
)  # fmt: skip
from backstop.runtime.kafka.shared_client import SharedClient
from backstop.runtime.process.clock import make_clock
from backstop.runtime.settings import RuntimeSettings
from tests.support.reading import records_on

PARTITION = 0


def place(settings: RuntimeSettings) -> TopicPartition:
    return TopicPartition(f"{settings.topic_prefix}results", PARTITION)


@asynccontextmanager
async def opener(settings: RuntimeSettings) -> AsyncIterator[FencedWriters]:
    writers = FencedWriters(settings, "test", make_clock())
    try:
        yield writers
    finally:
        await writers.stop()


def entries(*keys: str, value: bytes = b"v") -> list[FencedRecord]:
    return [FencedRecord(key.encode(), value, [("h", key.encode())]) for key in keys]


async def found(settings: RuntimeSettings, isolation: str = "read_uncommitted") -> list[str]:
    records = await records_on(settings.kafka_bootstrap_servers, place(settings).topic, [PARTITION], isolation)
    return [record.key.decode() for record in records]


def test_an_older_writer_is_refused_when_a_newer_one_is_open_though_that_one_wrote_nothing(
    settings: RuntimeSettings,
) -> None:
    async def scenario() -> list[str]:
        async with opener(settings) as writers:
            older = await writers.open(place(settings), None)
            await older.append(entries("a"))
            await writers.open(place(settings), None)
            with pytest.raises(FencedOffError):
                await older.append(entries("b"))
            return await found(settings)

    assert asyncio.run(scenario()) == ["a"]


def test_a_first_batch_that_comes_after_the_next_writer_is_refused(settings: RuntimeSettings) -> None:
    """The leader has no batch of the older epoch to compare it with, and none of the newer one."""

    async def scenario() -> list[str]:
        async with opener(settings) as writers:
            older = await writers.open(place(settings), None)
            newer = await writers.open(place(settings), None)
            with pytest.raises(FencedOffError):
                await older.append(entries("a"))
            await newer.append(entries("b"))
            return await found(settings)

    assert asyncio.run(scenario()) == ["b"]


def test_no_consumer_sees_a_fence_and_what_came_before_it_is_before_its_end(settings: RuntimeSettings) -> None:
    async def scenario() -> tuple[int, list[str], list[str]]:
        async with opener(settings) as writers:
            await (await writers.open(place(settings), None)).append(entries("a", "b"))
            end = await (await writers.open(place(settings), None)).end()
            return end, await found(settings), await found(settings, "read_committed")

    assert asyncio.run(scenario()) == (4, ["a", "b"], ["a", "b"])


def test_a_writer_is_continued_only_if_no_other_was_opened(settings: RuntimeSettings) -> None:
    async def scenario() -> list[str]:
        async with opener(settings) as writers:
            first = await writers.open(place(settings), None)
            second = await writers.open(place(settings), first.fence)
            await second.append(entries("a"))
            third = await writers.open(place(settings), None)
            with pytest.raises(FencedOffError):
                await writers.open(place(settings), second.fence)
            await third.append(entries("b"))
            return await found(settings)

    assert asyncio.run(scenario()) == ["a", "b"]


class _Deaf:
    """A client that performs requests of one kind and does not hear the answer."""

    def __init__(self, client: Any, deaf_to: str) -> None:
        self._client = client
        self._deaf_to = deaf_to

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node: int, request: Any, **options: Any) -> Any:
        answer = await self._client.send(node, request, **options)
        if self._deaf_to in type(request).__name__:
            raise _UnheardError
        return answer


class _UnheardError(Exception):
    """The opening ends here."""


@pytest.mark.parametrize("deaf_to", ["InitProducerId", "AddPartitions", "EndTxn"])
@pytest.mark.parametrize("first", [True, False])
def test_an_opening_that_failed_half_way_is_continued(settings: RuntimeSettings, deaf_to: str, first: bool) -> None:
    """The coordinator has performed what was not heard; its transaction is open after `AddPartitions`."""

    async def scenario() -> list[str]:
        def deaf(**options: Any) -> _Deaf:
            return _Deaf(AIOKafkaClient(**options), deaf_to)

        failing = FencedWriters(settings, "test", make_clock(), client=deaf)
        async with opener(settings) as writers:
            fences = [None if first else (await writers.open(place(settings), None)).fence]
            with pytest.raises(_UnheardError):
                await failing.open(place(settings), fences[-1], fences.append)
            await failing.stop()
            writer = await writers.open(place(settings), fences[-1], fences.append)
            assert fences[-1] == writer.fence
            await writer.append(entries("a"))
            return await found(settings, "read_committed")

    assert asyncio.run(scenario()) == ["a"]


def test_an_opening_that_failed_is_not_continued_if_another_was_opened(settings: RuntimeSettings) -> None:
    async def scenario() -> list[str]:
        def deaf(**options: Any) -> _Deaf:
            return _Deaf(AIOKafkaClient(**options), "AddPartitions")

        failing = FencedWriters(settings, "test", make_clock(), client=deaf)
        async with opener(settings) as writers:
            fences: list[Fence | None] = []
            with pytest.raises(_UnheardError):
                await failing.open(place(settings), None, fences.append)
            await failing.stop()
            newer = await writers.open(place(settings), None)
            with pytest.raises(FencedOffError):
                await writers.open(place(settings), fences[-1])
            await newer.append(entries("a"))
            return await found(settings, "read_committed")

    assert asyncio.run(scenario()) == ["a"]


class _Losing:
    """A client whose first answers to produce requests are lost."""

    def __init__(self, client: Any, lost: int) -> None:
        self._client = client
        self._lost = lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node: int, request: Any) -> Any:
        answer = await self._client.send(node, request)
        self._lost -= 1
        if self._lost >= 0:
            raise KafkaConnectionError("lost")
        return answer


def test_a_batch_whose_acknowledgement_was_lost_is_repeated_and_appended_once(settings: RuntimeSettings) -> None:
    async def scenario() -> list[str]:
        async with opener(settings) as writers:
            opened = await writers.open(place(settings), None)
            losing = SharedClient(_Losing(opened._shared.kafka, lost=2))
            writer = FencedWriter(losing, place(settings), opened.fence, make_clock())
            await writer.append(entries("a", "b"))
            await writer.append(entries("c"))
            return await found(settings)

    assert asyncio.run(scenario()) == ["a", "b", "c"]


def test_more_than_a_batch_holds_is_appended_in_order(settings: RuntimeSettings) -> None:
    keys = [f"{number}" for number in range(7)]

    async def scenario() -> list[str]:
        async with opener(settings) as writers:
            writer = await writers.open(place(settings), None)
            await writer.append(entries(*keys, value=b"x" * (BATCH_BYTES_MAX // 3)))
            await writer.append(entries("large", value=b"x" * (2 * BATCH_BYTES_MAX)))
            await writer.append(entries("last"))
            return await found(settings)

    assert asyncio.run(scenario()) == [*keys, "large", "last"]


def test_a_writer_whose_fence_is_too_old_sends_nothing(settings: RuntimeSettings) -> None:
    async def scenario() -> list[str]:
        async with opener(settings) as writers:
            opened = await writers.open(place(settings), None)
            assert not opened.fence.over
            old = FencedWriter(opened._shared, place(settings), opened.fence._replace(until_s=0.0), make_clock())
            assert old.fence.over
            with pytest.raises(KafkaTimeoutError, match="older than 3600 s"):
                await old.append(entries("a"))
            return await found(settings)

    assert asyncio.run(scenario()) == []


@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
def test_a_transaction_that_an_older_release_left_open_is_aborted(settings: RuntimeSettings, isolation: str) -> None:
    async def scenario() -> list[str]:
        tp = place(settings)
        killed = AIOKafkaProducer(**client_options(settings), transactional_id=f"{tp.topic}-{tp.partition}")
        await killed.start()
        await killed.begin_transaction()
        await killed.send_and_wait(tp.topic, b"v", b"uncommitted", partition=PARTITION)
        async with opener(settings) as writers:
            await (await writers.open(tp, None)).append(entries("a"))
        await killed.stop()
        return await found(settings, isolation)

    aborted = [] if isolation == "read_committed" else ["uncommitted"]
    assert asyncio.run(scenario()) == [*aborted, "a"]


def test_partitions_have_writers_of_their_own(settings: RuntimeSettings) -> None:
    async def scenario() -> Sequence[int]:
        async with opener(settings) as writers:
            other = TopicPartition(place(settings).topic, 1)
            both = [await writers.open(tp, None) for tp in (place(settings), other)]
            await asyncio.gather(*(writer.append(entries("a")) for writer in both))
            records = await records_on(settings.kafka_bootstrap_servers, other.topic, [0, 1], "read_committed")
            return sorted(record.partition for record in records)

    assert asyncio.run(scenario()) == [0, 1]
