"""Where the broker tells no offset, a record has none. Else it would be handed over under the offset of another."""

import asyncio
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch

from backstop.runtime.kafka import client

TP = TopicPartition("polls", 0)


@pytest.mark.parametrize(("base", "expected"), [(-1, [-1, -1, -1]), (0, [0, 1, 2]), (7, [7, 8, 9])])
def test_offsets_of_a_batch(base: int, expected: list[int]) -> None:
    async def landed() -> list[Any]:
        batch = MessageBatch(TP, BatchBuilder(16_384, 0), 10, 0)
        waits = [batch.append(b"k", b"v", 5) for _ in range(3)]
        batch.done(base, -1, -1)
        return [await wait for wait in waits]

    found = asyncio.run(landed())
    assert [each.offset for each in found] == expected
    assert {each.timestamp for each in found} == {5}
    assert MessageBatch.done is client._done_or_unknown
