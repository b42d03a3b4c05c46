"""Connections that end at the worst moment: clients of ours go on, with a producer that is new if it must be."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from backstop.dev.broker import Owned
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.publisher import KafkaPublisher
from backstop.runtime.kafka.topics import create_topics
from backstop.runtime.settings import RuntimeSettings
from schemas.commands import CancelResponse
from tests.support.waiting import eventually


def _message(number: int) -> CancelResponse:
    return CancelResponse(id=f"r{number}/cancel", at_ms=1, response_id=f"resp_{number}", job_id="j")


async def _publish(publisher: KafkaPublisher, number: int) -> bool:
    try:
        await publisher.publish([_message(number)], timeout_s=5)
    except BrokerUnavailableError:
        return False
    return True


async def _started(broker: Owned, prefix: str, folder: Path) -> KafkaPublisher:
    settings = RuntimeSettings(
        kafka_bootstrap_servers=broker.bootstrap, topic_prefix=prefix, partitions=1, data_dir=folder
    )
    await create_topics(settings)
    publisher = KafkaPublisher(settings, "test")
    await publisher.start()
    assert await _publish(publisher, 0)
    return publisher


def _connections(publisher: KafkaPublisher) -> list[Any]:
    assert publisher._producer is not None
    return [connection for connection in publisher._producer.client._conns.values() if connection._writer is not None]


def test_a_write_to_a_transport_that_has_just_closed_costs_one_connection_and_not_the_producer(
    broker: Owned, prefix: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        publisher = await _started(broker, prefix, tmp_path)
        producer = publisher._producer
        try:
            for number in range(1, 4):
                for connection in _connections(publisher):
                    connection._writer.transport.abort()
                    await asyncio.sleep(
                        0
                    )  # as a reset leaves it: the transport has closed, and the connection has not read that yet
                    with pytest.raises(KafkaConnectionError):
                        connection.send(MetadataRequest([]))
                await eventually(partial(_publish, publisher, number), 20, "an acknowledgement")
            assert publisher._producer is producer
        finally:
            await publisher.stop()

    uvloop.run(scenario())


def test_a_producer_whose_sender_has_died_is_replaced(broker: Owned, prefix: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        publisher = await _started(broker, prefix, tmp_path)
        try:
            died = publisher._producer
            assert died is not None
            died._sender._sender_task.cancel()
            await eventually(died._sender.sender_task.done, 5, "the sender's death")
            await eventually(lambda: _publish(publisher, 1), 20, "an acknowledgement")
            assert publisher._producer is not died
        finally:
            await publisher.stop()

    asyncio.run(scenario())
