"""A group whose leader does not know a topic: a broker that has just come back may forget topics for a moment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from backstop.dev.broker import Owned
from backstop.runtime.kafka.client import TOPICS_KNOWN_WITHIN_S, client_options
from backstop.runtime.settings import RuntimeSettings
from tests.support.waiting import eventually

PARTITIONS = 3


@asynccontextmanager
async def topics_of(broker: Owned) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


@asynccontextmanager
async def member(broker: Owned, topic: str) -> AsyncIterator[Any]:
    """Of a group on `topic`, with all its partitions. What it does not know it would ask for again in an hour."""
    options = client_options(RuntimeSettings(kafka_bootstrap_servers=broker.bootstrap))
    consumer = AIOKafkaConsumer(
        **options | {"metadata_max_age_ms": 3_600_000}, group_id=topic, auto_offset_reset="earliest"
    )
    consumer.subscribe([topic])
    await consumer.start()
    try:
        await eventually(lambda: len(consumer.assignment()) == PARTITIONS, 20, "the assignment")
        yield consumer
    finally:
        await consumer.stop()


async def forget(admin: AIOKafkaAdminClient, consumer: Any, topic: str) -> None:
    """The member learns that there is no such topic, and joins again for it."""
    await admin.delete_topics([topic])

    async def forgotten() -> bool:
        await consumer._client.force_metadata_update()
        return not consumer._client.cluster.partitions_for_topic(topic)

    await eventually(forgotten, 10, "metadata without the topic")


async def write(broker: Owned, topic: str, partition: int) -> None:
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
        await producer.send_and_wait(topic, b"x", partition=partition)


def test_a_topic_that_is_known_again_a_little_later_is_assigned_at_once(broker: Owned, prefix: str) -> None:
    topic = f"{prefix}late"

    async def scenario() -> None:
        async with topics_of(broker) as admin:
            await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
            async with member(broker, topic) as consumer:
                await forget(admin, consumer, topic)
                await eventually(consumer._coordinator._rejoin_needed_fut.done, 10, "the group to meet again")
                await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
                await asyncio.gather(*(write(broker, topic, partition) for partition in range(PARTITIONS)))
                async with asyncio.timeout(TOPICS_KNOWN_WITHIN_S + 5):
                    read = {(await consumer.getone()).partition for _ in range(PARTITIONS)}
                assert read == set(range(PARTITIONS))
            await admin.delete_topics([topic])

    asyncio.run(scenario())
