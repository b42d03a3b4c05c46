"""aiokafka's client for requests that neither its producer nor its consumer sends."""

import asyncio
from contextlib import suppress
from typing import Any, Final

from aiokafka.client import CoordinationType
from aiokafka.errors import IncompatibleBrokerVersion, KafkaTimeoutError, NodeNotReadyError

RETRY_WAIT_S: Final = 0.1
CLOSE_WITHIN_S: Final = 5.0
"""A connection on which nothing moves is not waited for any longer."""


class SharedClient:
    """Closed once it is no use any more: it asks only brokers that it has known since its start."""

    def __init__(self, client: Any) -> None:
        """:param client: an `AIOKafkaClient`, or what behaves the same."""
        self.kafka = client
        self.closed = False

    async def start(self, topic: str) -> None:
        await self.kafka.bootstrap()
        await self.kafka.add_topic(topic)

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_WITHIN_S):
                    await self.kafka.close()

    async def coordinator(self, transactional_id: str) -> Any:
        """The broker that coordinates a transactional id."""
        self._check()
        if not self.kafka.cluster.brokers():  # The client would fail an assertion.
            raise NodeNotReadyError("no broker is known")
        return await self.kafka.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)

    async def send(self, node: Any, request: Any, **options: Any) -> Any:
        """:raises IncompatibleBrokerVersion: the broker is too old for the request."""
        self._check()
        try:
            return await self.kafka.send(node, request, **options)
        except NotImplementedError as error:
            name = type(request).__name__.strip("_")
            raise IncompatibleBrokerVersion(
                f"broker {node} knows no version of {name} that Backstop sends: use Kafka 3.7 or newer"
            ) from error

    async def leader(self, tp: Any) -> Any:
        """The broker that leads a partition; the client is connected to it. None: it is not known or not there."""
        self._check()
        leader = self.kafka.cluster.leader_for_partition(tp)
        return leader if leader not in {None, -1} and await self.kafka.ready(leader) else None

    async def refresh(self) -> None:
        """Learn again which broker leads what, before a request is repeated.

        It may never return: the caller has a limit.
        """
        self._check()
        await self.kafka.force_metadata_update()
        await asyncio.sleep(RETRY_WAIT_S)

    def _check(self) -> None:
        if self.closed:  # It would connect again, and never close that.
            raise KafkaTimeoutError("the client was closed, as the broker did not answer in time")
