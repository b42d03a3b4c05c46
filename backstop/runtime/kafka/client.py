"""Connection options of every aiokafka client. Two faults of aiokafka are fixed here, and its codec is faster."""

import asyncio
from typing import Any, NamedTuple

import structlog
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import KafkaConnectionError
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.protocol.struct import Struct

from backstop.runtime.kafka import wire
from backstop.runtime.kafka.hardened_fetch import unpack_at_most
from backstop.runtime.kafka.security import security_options
from backstop.runtime.process.clock import monotonic_s
from backstop.runtime.settings import RuntimeSettings

log = structlog.get_logger()


def client_options(settings: RuntimeSettings) -> dict[str, Any]:
    """Keyword arguments that AIOKafkaProducer, AIOKafkaConsumer and AIOKafkaAdminClient share.

    From this call on, all consumers of the process obey the settings' limit on unpacked batches (see
    `backstop.runtime.kafka.hardened_fetch`).

    :raises ConfigurationError: as `security_options`.
    """
    unpack_at_most(settings.kafka_unpacked_bytes_max)
    return {
        **security_options(settings),
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "metadata_max_age_ms": 60_000,
        "retry_backoff_ms": 100,
    }


TOPICS_KNOWN_WITHIN_S = 5.0
"""Shorter than a session timeout, because the group waits for its leader meanwhile."""
TOPICS_ASKED_EVERY_S = 0.1

Struct.encode = wire.encode
Struct.decode = classmethod(wire.decode)

_send = AIOKafkaConnection.send


def _send_or_close(connection: Any, request: Any, expect_response: bool = True) -> Any:
    """The `send` of aiokafka, with uvloop's RuntimeError for a closed transport turned into a connection error.

    uvloop raises a RuntimeError on a write to a transport that has closed (asyncio only warns). aiokafka 0.14 expects
    OSError alone: it treats the RuntimeError as a bug, ends the producer's sender or the consumer's fetcher for good,
    and every later request on that client fails.
    """
    try:
        return _send(connection, request, expect_response)
    except RuntimeError as error:
        if type(error) is not RuntimeError:  # its subclasses, NotImplementedError and RecursionError, are bugs
            raise
        connection.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"connection to {connection.host}:{connection.port} broken: {error}") from error


AIOKafkaConnection.send = _send_or_close

_done = MessageBatch.done


def _done_or_unknown(batch: Any, base_offset: int, *others: Any) -> None:
    """The `done` of aiokafka. Where the broker tells no offset (-1: it recognised a repeat), each record has none.

    aiokafka would count from -1, so that the second record seems to have offset 0.
    """
    if base_offset is not None and base_offset < 0:
        placed = batch._msg_futures  # noqa: SLF001 - as above
        batch._msg_futures = [(future, _Unplaced(known.timestamp)) for future, known in placed]  # noqa: SLF001
    _done(batch, base_offset, *others)


class _Unplaced(NamedTuple):
    """Of a record whose offset is unknown, what aiokafka reads."""

    timestamp: int
    offset: int = 0


MessageBatch.done = _done_or_unknown

_assign = GroupCoordinator._perform_assignment  # noqa: SLF001 - as above


async def _assign_known_topics(coordinator: Any, response: Any) -> Any:
    """The assignment of aiokafka, delayed until every topic of the group is known, for `TOPICS_KNOWN_WITHIN_S` at most.

    A broker that has just started may not know its topics for a moment. aiokafka's and Faust's assignors then skip
    these topics with a warning, and the group is not rebalanced before the metadata expires: for minutes its members
    own no partitions. A topic that is still unknown at the deadline is left out, and an error is logged.
    """
    deadline_s = monotonic_s() + TOPICS_KNOWN_WITHIN_S
    while True:
        assignments = await _assign(coordinator, response)
        topics = coordinator._group_subscription  # noqa: SLF001 - as above
        cluster = coordinator._cluster  # noqa: SLF001 - as above
        unknown = sorted(topic for topic in topics if not cluster.partitions_for_topic(topic))
        if not unknown:
            return assignments
        if monotonic_s() > deadline_s:
            log.error("topics unknown to the broker", topics=unknown, group=coordinator.group_id)
            return assignments
        await asyncio.sleep(TOPICS_ASKED_EVERY_S)
        await coordinator._client.force_metadata_update()  # noqa: SLF001 - as above


GroupCoordinator._perform_assignment = _assign_known_topics  # noqa: SLF001 - as above
