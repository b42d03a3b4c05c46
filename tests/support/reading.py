"""All records of a topic, by another way than the code under test."""

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

WITHIN_S = 30.0


async def records_on(
    bootstrap: str, topic: str, partitions: int | list[int], isolation: str = "read_uncommitted"
) -> list[Any]:
    """What stands there now, to the end offsets; of each partition in order. `partitions`: their number, or which."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level=isolation, enable_auto_commit=False)
    await consumer.start()
    try:
        numbers = range(partitions) if isinstance(partitions, int) else partitions
        tps = [TopicPartition(topic, number) for number in numbers]
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        ends = await consumer.end_offsets(tps)
        found: list[Any] = []
        async with asyncio.timeout(WITHIN_S):
            while any([await consumer.position(tp) < ends[tp] for tp in tps]):
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += records
        return found
    finally:
        await consumer.stop()
