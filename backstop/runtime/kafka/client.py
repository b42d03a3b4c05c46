"""Connection options of every aiokafka client. Two faults of aiokafka are fixed here, and its codec is faster."""

import asyncio
from ssl import SSLError
from typing import Any

import structlog
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import KafkaConnectionError
from aiokafka.helpers import create_ssl_context
from aiokafka.protocol.struct import Struct

from backstop.runtime.errors import ConfigurationError
from backstop.runtime.kafka import wire
from backstop.runtime.kafka.hardened_fetch import unpack_at_most
from backstop.runtime.process.clock import monotonic_s
from backstop.runtime.settings import RuntimeSettings

log = structlog.get_logger()


def client_options(settings: RuntimeSettings) -> dict[str, Any]:
    """Keyword arguments that AIOKafkaProducer, AIOKafkaConsumer and AIOKafkaAdminClient share.

    From this call on, all consumers of the process obey the settings' limit on unpacked batches (see
    `backstop.runtime.kafka.hardened_fetch`).
    """
    unpack_at_most(settings.kafka_unpacked_bytes_max)
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "security_protocol": settings.kafka_security_protocol,
        "metadata_max_age_ms": 60_000,
        "retry_backoff_ms": 100,
    }
    if settings.kafka_security_protocol.endswith("SSL"):
        cafile = str(settings.kafka_ssl_cafile) if settings.kafka_ssl_cafile else None
        try:
            options["ssl_context"] = create_ssl_context(cafile=cafile)
        except OSError as error:  # also of `ssl`: a file without a certificate
            why = "it holds no certificate" if isinstance(error, SSLError) else error.strerror
            raise ConfigurationError(f"BACKSTOP_KAFKA_SSL_CAFILE {cafile}: {why}") from None
    if settings.kafka_security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username
        password = settings.kafka_sasl_password
        options["sasl_plain_password"] = password.get_secret_value() if password else None
    return options


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
