"""Topics on a real broker: made once, checked at each start, refused where they would break us."""

import asyncio

import orjson
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from typer.testing import CliRunner

from backstop.cli.main import app
from backstop.dev.broker import Owned
from backstop.runtime.errors import BrokerUnavailableError, ConfigurationError
from backstop.runtime.kafka.topics import check_topics, create_topics, require_topics
from backstop.runtime.settings import RuntimeSettings
from schemas.topics import CHANGELOGS, TOPICS


def settings_of(broker: Owned, prefix: str, partitions: int = 3) -> RuntimeSettings:
    return RuntimeSettings(kafka_bootstrap_servers=broker.bootstrap, topic_prefix=prefix, partitions=partitions)


async def make(broker: Owned, *topics: NewTopic) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        await admin.create_topics(list(topics))
    finally:
        await admin.close()


def test_topics_are_created_as_wanted_and_creating_again_changes_nothing(broker: Owned, prefix: str) -> None:
    async def run() -> None:
        settings = settings_of(broker, prefix)
        first = await create_topics(settings)
        assert first.created == tuple(f"{prefix}{topic.name}" for topic in (*TOPICS, *CHANGELOGS))
        assert (first.existing, first.differences) == ((), ())
        second = await create_topics(settings)
        assert (second.created, second.differences) == ((), ())
        assert sorted(second.existing) == sorted(first.created)
        assert await check_topics(settings) == ()

    asyncio.run(run())


def test_two_who_create_at_once_do_not_disturb_each_other(broker: Owned, prefix: str) -> None:
    async def run() -> None:
        both = await asyncio.gather(*(create_topics(settings_of(broker, prefix)) for _ in range(2)))
        assert [created.differences for created in both] == [(), ()]
        names = [f"{prefix}{topic.name}" for topic in (*TOPICS, *CHANGELOGS)]
        assert sorted(both[0].created + both[1].created) == sorted(names), "each was made by one of them"

    asyncio.run(run())


def test_a_start_with_another_partition_count_is_refused_with_both_counts_and_what_to_do(
    broker: Owned, prefix: str
) -> None:
    async def run() -> None:
        await create_topics(settings_of(broker, prefix, partitions=3))
        await require_topics(settings_of(broker, prefix, partitions=5))

    with pytest.raises(ConfigurationError) as caught:
        asyncio.run(run())
    sentence = f"topic {prefix}jobs: partition count is 3, wanted 5. Set BACKSTOP_PARTITIONS=3"
    assert sentence in str(caught.value)
    assert f"{prefix}requests" not in str(caught.value), "requests may have any count"


def test_a_start_without_topics_is_refused_and_says_what_to_run(broker: Owned, prefix: str) -> None:
    with pytest.raises(ConfigurationError, match=r"jobs: topic is missing.*backstop topics create"):
        asyncio.run(require_topics(settings_of(broker, prefix), patience_s=0.3))


def test_a_start_waits_for_topics_that_are_just_being_made(broker: Owned, prefix: str) -> None:
    async def run() -> None:
        settings = settings_of(broker, prefix)
        waiting = asyncio.create_task(require_topics(settings))
        assert await check_topics(settings) != ()
        await create_topics(settings)
        assert await waiting == ()

    asyncio.run(run())


def test_a_compacted_audit_log_is_refused(broker: Owned, prefix: str) -> None:
    async def run() -> None:
        await make(broker, NewTopic(f"{prefix}jobs", 3, 1, topic_configs={"cleanup.policy": "compact"}))
        created = await create_topics(settings_of(broker, prefix))
        assert f"{prefix}jobs" in created.existing
        await require_topics(settings_of(broker, prefix))

    with pytest.raises(ConfigurationError, match=r"jobs: cleanup.policy is compact, wanted delete"):
        asyncio.run(run())


def test_no_broker_is_said_within_the_patience_given() -> None:
    settings = RuntimeSettings(kafka_bootstrap_servers="127.0.0.1:1")
    with pytest.raises(BrokerUnavailableError, match=r"no Kafka broker answers at 127\.0\.0\.1:1"):
        asyncio.run(check_topics(settings, patience_s=0.2))


def test_the_command_tells_by_its_exit_code_and_gives_differences_as_json(
    broker: Owned, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap)
    monkeypatch.setenv("BACKSTOP_TOPIC_PREFIX", prefix)
    monkeypatch.setenv("BACKSTOP_PARTITIONS", "2")
    run = CliRunner().invoke
    before = run(app, ["topics", "check", "-o", "json"])
    assert before.exit_code == 1
    assert {row["found"] for row in orjson.loads(before.stdout)} == {"missing"}
    created = run(app, ["topics", "create", "-o", "json"])
    assert created.exit_code == 0
    assert {row["done"] for row in orjson.loads(created.stdout)} == {"created"}
    after = run(app, ["topics", "check", "-o", "json"])
    assert (after.exit_code, orjson.loads(after.stdout)) == (0, [])
