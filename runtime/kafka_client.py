"""Connection options of every aiokafka client, from the settings; and one hole of aiokafka's closed for all of them."""

from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError
from aiokafka.helpers import create_ssl_context

from runtime.settings import RuntimeSettings


def client_options(settings: RuntimeSettings) -> dict[str, Any]:
    """Keyword arguments that AIOKafkaProducer, AIOKafkaConsumer and AIOKafkaAdminClient share."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "security_protocol": settings.kafka_security_protocol,
        "metadata_max_age_ms": 60_000,
        "retry_backoff_ms": 100,
    }
    if settings.kafka_security_protocol.endswith("SSL"):
        cafile = str(settings.kafka_ssl_cafile) if settings.kafka_ssl_cafile else None
        options["ssl_context"] = create_ssl_context(cafile=cafile)
    if settings.kafka_security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username
        password = settings.kafka_sasl_password
        options["sasl_plain_password"] = password.get_secret_value() if password else None
    return options


_send = AIOKafkaConnection.send


def _send_or_close(connection: Any, request: Any, expect_response: bool = True) -> Any:
    """As aiokafka does it, which expects of a broken connection an OSError and nothing else.

    uvloop raises a RuntimeError where a transport has closed and nobody has read that yet (asyncio would only warn). aiokafka 0.14 takes
    it for a bug: the producer's sender and the consumer's fetcher end, for good, and everything that is asked of them fails from then on.
    """
    try:
        return _send(connection, request, expect_response)
    except RuntimeError as error:
        if type(error) is not RuntimeError:  # NotImplementedError and RecursionError are bugs indeed
            raise
        connection.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"connection to {connection.host}:{connection.port} broken: {error}") from error


AIOKafkaConnection.send = _send_or_close
