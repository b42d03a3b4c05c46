"""A broker with TLS, authentication and an authorizer: every way to log in, the least rights of each process, and what
a wrong password, certificate, token or right is told as.
"""

import asyncio
import json
import os
import re
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka.admin import AclOperation, ResourceType  # type: ignore[attr-defined]
from openai import OpenAI

from backstop.dev.broker import LocalKafka
from backstop.runtime.errors import BackstopError
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.publisher import KafkaPublisher
from backstop.runtime.kafka.topics import create_topics
from backstop.runtime.read_settings import read
from backstop.runtime.settings import RuntimeSettings
from backstop.simulator.running import running
from schemas.topics import CHANGELOGS, TOPICS
from streams.faust.security import broker_credentials
from tests.support.children import BACKSTOP, child
from tests.support.secured_broker import SecuredBroker, TokenEndpoint, secured_broker, token_endpoint
from tests.support.waiting import wait_until
from tests.unit.schemas.messages import MESSAGES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    # `asyncio.run` ends while a connection says goodbye in TLS.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WAYS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "token", "certificate")
ALL = AclOperation.ALL
SECRET = "whsec_" + "A" * 32
KEYS = "outgoing-" + "k" * 32


@pytest.fixture(scope="module")
def secured(local_kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    with secured_broker(local_kafka, tmp_path_factory.mktemp("secured")) as made:
        yield made


@pytest.fixture(scope="module")
def tokens() -> Iterator[TokenEndpoint]:
    with token_endpoint() as made:
        yield made


def way(secured: SecuredBroker, tokens: TokenEndpoint, name: str, user: str) -> dict[str, str]:
    match name:
        case "token":
            return secured.by_token(tokens.url, user)
        case "certificate":
            return secured.by_certificate(user)
        case _:
            return secured.by_password(user, name)


def settings(environment: Mapping[str, str], prefix: str, monkeypatch: pytest.MonkeyPatch) -> RuntimeSettings:
    for name, value in {**environment, "BACKSTOP_TOPIC_PREFIX": prefix, "BACKSTOP_PARTITIONS": "1"}.items():
        monkeypatch.setenv(name, value)
    return read(RuntimeSettings)


@pytest.mark.parametrize(
    "name", [name if name != "SCRAM-SHA-512" else pytest.param(name, marks=pytest.mark.long) for name in WAYS]
)
def test_each_way_to_log_in_makes_topics_writes_reads_and_is_known_to_faust(secured, tokens, name, prefix, monkeypatch):
    given = settings(way(secured, tokens, name, "operator"), prefix, monkeypatch)
    for kind in (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID):
        secured.allow("operator", [(kind, "PREFIXED", prefix, ALL)])
    (result,) = (message for message in MESSAGES if message.topic == "results")

    async def roundtrip() -> bytes:
        assert len((await create_topics(given)).created) == len((*TOPICS, *CHANGELOGS))
        publisher = KafkaPublisher(given, "test")
        await publisher.start()
        try:
            await publisher.publish([result])
        finally:
            await publisher.stop()
        consumer = AIOKafkaConsumer(**client_options(given))
        await consumer.start()
        try:
            place = TopicPartition(f"{prefix}results", 0)
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            return (await asyncio.wait_for(consumer.getone(), 30)).value
        finally:
            await consumer.stop()

    assert json.loads(asyncio.run(roundtrip()))["id"] == result.id
    assert "broker_credentials" in broker_credentials(given)


def wrong(secured: SecuredBroker, tokens: TokenEndpoint, what: str) -> dict[str, str]:
    certificates = secured.folder
    match what:
        case "password":
            return secured.by_password("worker") | {"BACKSTOP_KAFKA_SASL_PASSWORD": "guessed"}
        case "user":
            return secured.by_password("worker") | {"BACKSTOP_KAFKA_SASL_USERNAME": "unknown"}
        case "secret of the token endpoint":
            return secured.by_token(tokens.url, "worker") | {"BACKSTOP_KAFKA_OAUTH_CLIENT_SECRET": "guessed"}
        case "CA":
            return secured.by_password("worker") | {"BACKSTOP_KAFKA_SSL_CAFILE": str(certificates / "worker.pem")}
        case "no certificate":
            return secured.settings(
                KAFKA_BOOTSTRAP_SERVERS=secured.mtls_address, BACKSTOP_KAFKA_SECURITY_PROTOCOL="SSL"
            )
        case "key of another certificate":
            return secured.by_certificate("worker") | {"BACKSTOP_KAFKA_SSL_KEYFILE": str(certificates / "serve.key")}
        case "protocol":
            return secured.by_password("worker") | {"BACKSTOP_KAFKA_SECURITY_PROTOCOL": "SSL"}
        case _:
            return secured.by_password("stranger")


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("password", "refuses the user name or the password: correct BACKSTOP_KAFKA_SASL_USERNAME or"),
        ("user", "refuses the user name or the password"),
        ("secret of the token endpoint", "answered 401 .*invalid_client.*correct BACKSTOP_KAFKA_OAUTH_CLIENT_ID"),
        ("CA", "is not trusted .*: name its CA by BACKSTOP_KAFKA_SSL_CAFILE"),
        ("no certificate", "BACKSTOP_KAFKA_SSL_CERTFILE"),
        ("key of another certificate", "BACKSTOP_KAFKA_SSL_KEYFILE .*: no certificate with its key"),
        ("protocol", r"is BACKSTOP_KAFKA_SECURITY_PROTOCOL \(SSL\) right for this port"),
        ("rights", "Authorization failed"),
    ],
)
def test_each_thing_that_is_wrong_is_told_apart(secured, tokens, what, told, prefix, monkeypatch):
    with pytest.raises(BackstopError, match=told):
        asyncio.run(create_topics(settings(wrong(secured, tokens, what), prefix, monkeypatch), patience_s=1))


RIGHTS_PAGE = Path(__file__).parents[2] / "docs" / "kafka.md"


def documented_rights() -> dict[str, list[tuple[ResourceType, str, AclOperation]]]:
    """The table of docs/kafka.md: what each process may do with topics, groups and transactional ids."""
    kinds = (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID)
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|([^|]*)\|([^|]*)\|$", RIGHTS_PAGE.read_text(), re.MULTILINE)
    return {
        process: [
            (kind, "PREFIXED", AclOperation[_operation(word)])
            for kind, cell in zip(kinds, cells, strict=True)
            for word in re.findall(r"\w+", cell)
        ]
        for process, *cells in rows
    }


def _operation(word: str) -> str:
    """`DescribeConfigs` is `DESCRIBE_CONFIGS`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word).upper()


def test_each_process_does_its_work_with_the_rights_that_the_page_names(secured, prefix, monkeypatch, tmp_path, ports):
    rights = documented_rights()
    assert set(rights) == {"worker", "serve", "projection", "outgoing", "operator"}
    for process, grants in rights.items():
        secured.allow(process, [(kind, pattern, prefix, operation) for kind, pattern, operation in grants])
    asyncio.run(create_topics(settings(secured.by_password("operator"), prefix, monkeypatch)))
    with ExitStack() as stack:
        simulator = stack.enter_context(running(time_scale=20))
        serve_port = ports.draw()
        shared = {
            **os.environ,
            "BACKSTOP_TOPIC_PREFIX": prefix, "BACKSTOP_PARTITIONS": "1", "BACKSTOP_DEVELOPMENT": "true",
            "BACKSTOP_BLOB_DIR": str(tmp_path / "blobs"), "OPENAI_API_KEY": simulator.api_key,
            "BACKSTOP_DATABASE_URL": f"sqlite:///{tmp_path}/readmodel.db", "BACKSTOP_OUTGOING_KEYS": KEYS,
            "BACKSTOP_OUTGOING_LOOPBACK": "true", "BACKSTOP_CLEAR_TEXT": "true",
            "BACKSTOP_OPENAI_BASE_URL": simulator.base_url, "BACKSTOP_PORT": str(serve_port),
            "BACKSTOP_WEBHOOK_SECRETS": SECRET,
        }  # fmt: skip
        simulator.webhook(f"http://127.0.0.1:{serve_port}/webhooks/openai", SECRET)
        started = {
            process: stack.enter_context(
                child(
                    [*BACKSTOP, process],
                    {**shared, **secured.by_password(process), "BACKSTOP_DATA_DIR": str(tmp_path / process)},
                    tmp_path / f"{process}.log",
                )
            )
            for process in ("serve", "worker", "projection", "outgoing")
        }
        url = f"http://127.0.0.1:{serve_port}"
        wait_until(lambda: urllib.request.urlopen(f"{url}/readyz", timeout=5).close() is None, 60, "serve")
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        made = client.responses.create(model="gpt-5.2", input="Hi.", background=True)
        wait_until(lambda: client.responses.retrieve(made.id).status == "completed", 60, "the result")
        for name, its_process in started.items():
            assert its_process.poll() is None, (tmp_path / f"{name}.log").read_text()[-2_000:]
            log = (tmp_path / f"{name}.log").read_text()
            assert "uthorization" not in log, f"{name}: {log[-2_000:]}"
