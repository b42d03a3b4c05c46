"""`read_to` over a consumer that behaves as aiokafka does: positions decide where the end is; what is beyond stays."""

import asyncio
from dataclasses import dataclass, field

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaTimeoutError

from backstop.runtime.kafka.topic_reader import STALL_S, read_to
from tests.simulation.loop import VirtualLoop

A, B = TopicPartition("jobs", 0), TopicPartition("jobs", 1)


@dataclass
class Raw:
    offset: int


@dataclass
class Consumer:
    """`logs`: the offsets that hold a record; a position moves past the others with the next poll."""

    logs: dict[TopicPartition, list[int]]
    ends: dict[TopicPartition, int]
    deaf: bool = False
    at: dict[TopicPartition, int] = field(default_factory=dict)

    async def position(self, tp: TopicPartition) -> int:
        return self.at.get(tp, 0)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.at[tp] = offset

    async def getmany(self, *tps: TopicPartition, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Raw]]:
        await asyncio.sleep(timeout_ms / 1_000)
        if self.deaf:
            return {}
        found = {tp: [Raw(offset) for offset in self.logs[tp] if offset >= self.at.get(tp, 0)] for tp in tps}
        self.at |= {tp: self.ends[tp] for tp in tps}
        return {tp: records[:max_records] for tp, records in found.items() if records}


def read(consumer: Consumer, ends: dict[TopicPartition, int]) -> list[tuple[int, int]]:
    async def all_of_it() -> list[tuple[int, int]]:
        polls = [batches async for batches in read_to(consumer, ends)]
        return [(tp.partition, raw.offset) for batches in polls for tp, raws in batches.items() for raw in raws]

    with asyncio.Runner(loop_factory=lambda: VirtualLoop("order 0")) as runner:
        return runner.run(all_of_it())


def test_gaps_and_an_end_without_a_record_are_read_past() -> None:
    consumer = Consumer({A: [0, 3], B: []}, {A: 6, B: 2})
    assert read(consumer, {A: 6, B: 2}) == [(0, 0), (0, 3)]


def test_what_came_after_the_end_was_asked_for_is_read_the_next_time() -> None:
    consumer = Consumer({A: [0, 1, 2]}, {A: 3})
    assert read(consumer, {A: 2}) == [(0, 0), (0, 1)]
    assert consumer.at == {A: 2}
    assert read(consumer, {A: 3}) == [(0, 2)]


def test_a_partition_that_is_at_its_end_is_not_asked_for() -> None:
    consumer = Consumer({A: [0]}, {A: 1}, deaf=True)
    consumer.seek(A, 1)
    assert read(consumer, {A: 1}) == []


def test_a_log_that_does_not_reach_its_end_is_given_up() -> None:
    with pytest.raises(KafkaTimeoutError, match=f"for {STALL_S:g} s"):
        read(Consumer({A: []}, {A: 1}, deaf=True), {A: 1})
