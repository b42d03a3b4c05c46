"""Why no broker can be used, each cause in its own sentence, from real sockets."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed, UnsupportedSaslMechanismError

from backstop.runtime.errors import BrokerUnavailableError, ConfigurationError
from backstop.runtime.kafka.diagnosis import Diagnosis, diagnose, told_of, why_unusable
from backstop.runtime.kafka.topics import check_topics
from backstop.runtime.settings import RuntimeSettings


def settings(port: int, **more: Any) -> RuntimeSettings:
    return RuntimeSettings(kafka_bootstrap_servers=f"127.0.0.1:{port}", **more)


@asynccontextmanager
async def listening(answer: bytes | None, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that answers each connection with these bytes and closes it; None: it stays silent."""

    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*(task for task in serving if task is not None), return_exceptions=True)


@pytest.fixture(scope="module")
def own_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


def asked(answer: bytes | None, context: ssl.SSLContext | None = None, **more: Any) -> tuple[Diagnosis | None, int]:
    async def ask() -> tuple[Diagnosis | None, int]:
        async with listening(answer, context) as port:
            return await diagnose(settings(port, **more)), port

    return asyncio.run(ask())


def test_a_port_where_nothing_listens_is_told_with_what_to_do() -> None:
    async def free() -> int:
        async with listening(b"") as port:
            return port

    port = asyncio.run(free())
    told = asyncio.run(diagnose(settings(port)))
    assert told is not None
    assert told.sentence.startswith(f"no Kafka broker answers at 127.0.0.1:{port}: nothing listens there; start one")
    assert isinstance(told.error(), BrokerUnavailableError)


def test_a_certificate_of_another_ca_is_not_taken_for_an_unreachable_broker(own_certificate: ssl.SSLContext) -> None:
    told, port = asked(None, own_certificate, kafka_security_protocol="SSL")
    assert told is not None
    assert told.sentence.startswith(f"the certificate of the broker at 127.0.0.1:{port} is not trusted (")
    assert "BACKSTOP_KAFKA_SSL_CAFILE" in told.sentence
    assert isinstance(told.error(), ConfigurationError)


def test_a_port_without_tls_is_told_from_a_wrong_certificate() -> None:
    told, _ = asked(b"HTTP/1.1 400 Bad Request\r\n\r\n", kafka_security_protocol="SSL")
    assert told is not None
    assert "does not speak TLS as this client does" in told.sentence
    assert not told.passing


@pytest.mark.parametrize(
    ("error", "begins"),
    [
        (SaslAuthenticationFailed("no"), "the broker at b:1 refuses the user name or the password"),
        (UnsupportedSaslMechanismError("no"), "the broker at b:1 does not offer the SASL mechanism SCRAM-SHA-512"),
    ],
)
def test_a_wrong_password_and_a_wrong_mechanism_need_the_operator(error: Exception, begins: str) -> None:
    told = told_of(error, "b:1", settings(1))
    assert told.sentence.startswith(begins)
    assert not told.passing


def test_a_name_that_does_not_resolve_and_a_port_that_is_none_are_told() -> None:
    def told(address: str) -> str:
        found = asyncio.run(diagnose(RuntimeSettings(kafka_bootstrap_servers=address, clear_text=True)))
        assert found is not None
        return found.sentence

    assert told("no-such-host.invalid:9092").startswith("no Kafka broker answers at no-such-host.invalid:9092 (")
    assert told("127.0.0.1:port") == "127.0.0.1:port is not HOST:PORT: correct KAFKA_BOOTSTRAP_SERVERS"


def test_a_broker_that_is_silent_may_answer_later() -> None:
    async def ask() -> Diagnosis:
        async with listening(None) as port:
            return await why_unusable(settings(port), KafkaConnectionError("x"))

    told = asyncio.run(ask())
    assert told.passing
    assert "within 3 s: is it running" in told.sentence


def test_what_time_does_not_cure_is_not_awaited(
    own_certificate: ssl.SSLContext, run_quickly: Callable[..., Any]
) -> None:
    async def ask() -> None:
        async with listening(None, own_certificate) as port:
            await check_topics(settings(port, kafka_security_protocol="SSL"), patience_s=600)

    with pytest.raises(ConfigurationError, match="is not trusted"):
        run_quickly(ask())


@pytest.fixture
def run_quickly() -> Callable[..., Any]:
    async def within(work: Any) -> None:
        async with asyncio.timeout(30):
            await work

    return lambda work: asyncio.run(within(work))


def test_a_ca_file_that_is_missing_or_no_certificate_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no certificate")
    for name, why in (("missing", "No such file or directory"), ("text", "it holds no certificate")):
        given = settings(1, kafka_security_protocol="SSL", kafka_ssl_cafile=tmp_path / name)
        with pytest.raises(ConfigurationError, match=f"^BACKSTOP_KAFKA_SSL_CAFILE {tmp_path / name}: {why}$"):
            asyncio.run(diagnose(given))
