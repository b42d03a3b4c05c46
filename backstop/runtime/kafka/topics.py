"""Creates topics, and checks them at every start against the one table in `schemas.topics`.

A wrong partition count is fatal: keys would hash to other partitions than the stores that hold their rows, and half of
a job's facts would be folded into an empty row. The start fails; Backstop never changes a partition count.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from backstop.runtime.errors import ConfigurationError
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.diagnosis import why_unusable
from backstop.runtime.kafka.lifetimes import broker_errors, started, stopped
from backstop.runtime.process.clock import monotonic_s
from backstop.runtime.record_sizes import TOPIC_BYTES_MAX
from backstop.runtime.settings import RuntimeSettings
from schemas.topics import CHANGELOGS, TOPICS, Topic

REQUEST_TIMEOUT_MS = 20_000
ASK_AGAIN_S = 0.2
PREFIX_CHARS_MIN = 8
NO_ERROR = 0

Aspect = Literal["missing", "partitions", "replication_factor", "config"]


@dataclass(frozen=True, slots=True)
class WantedTopic:
    """A topic as the settings want it, under its full name."""

    name: str
    partitions: int
    fixed: bool
    """Whether another partition count is fatal."""
    replication_factor: int
    config: Mapping[str, str]
    vital: bool = True
    """Whether no process can run without it."""


@dataclass(frozen=True, slots=True)
class FoundTopic:
    """A topic as the broker has it."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopicDifference:
    """One respect in which a topic differs from the settings. A
    `fatal` one stops the start; the others are warnings.
    """

    topic: str
    aspect: Aspect
    setting: str
    found: str
    wanted: str
    fatal: bool
    advice: str

    def __str__(self) -> str:
        return f"topic {self.topic}: {self.setting} is {self.found}, wanted {self.wanted}. {self.advice}"


@dataclass(frozen=True, slots=True)
class Created:
    """What `create_topics` created, and the differences that remain."""

    created: tuple[str, ...]
    existing: tuple[str, ...]
    differences: tuple[TopicDifference, ...]


def wanted_topics(settings: RuntimeSettings) -> tuple[WantedTopic, ...]:
    """The topic table with the settings' prefix, counts and limits; then the changelogs of the workers, and one
    `requests` topic per tenant in `request_tenants`.

    :raises ConfigurationError: more in-sync replicas are configured than replicas.
    """
    if settings.min_insync_replicas > settings.replication_factor:
        raise ConfigurationError(
            f"BACKSTOP_MIN_INSYNC_REPLICAS={settings.min_insync_replicas} exceeds BACKSTOP_REPLICATION_FACTOR="
            f"{settings.replication_factor}: no record could ever be acknowledged. Lower the first or raise the second."
        )
    wanted = [_wanted(settings, topic) for topic in (*TOPICS, *CHANGELOGS)]
    # Only the topic proves which tenant wrote a record of `requests`: headers and values can be forged.
    wanted += [
        replace(_wanted(settings, topic), name=f"{topic.full_name(settings.topic_prefix)}.{tenant}")
        for topic in TOPICS
        if topic.name == "requests"
        for tenant in settings.request_tenants
    ]
    return tuple(wanted)


def compare(wanted: Sequence[WantedTopic], found: Mapping[str, FoundTopic]) -> tuple[TopicDifference, ...]:
    """All differences, in the order of `wanted`. Pure."""
    differences: list[TopicDifference] = []
    for topic in wanted:
        have = found.get(topic.name)
        if have is None:
            differences.append(_missing(topic))
        else:
            differences += _partitions(topic, have) + _replicas(topic, have) + _config(topic, have)
    return tuple(differences)


def refuse_fatal(differences: Iterable[TopicDifference]) -> None:
    """:raises ConfigurationError: a difference is fatal; each sentence
    states what was found, what is wanted, what to do.
    """
    fatal = [str(difference) for difference in differences if difference.fatal]
    if fatal:
        raise ConfigurationError("\n".join(fatal))


async def create_topics(settings: RuntimeSettings, patience_s: float = 30.0) -> Created:
    """Create the missing topics; change no existing one, and return how each differs. Idempotent.

    :raises BrokerUnavailableError: no broker answered within `patience_s`.
    :raises ConfigurationError: the broker refuses (rights, replication factor).
    """
    wanted = wanted_topics(settings)
    async with _admin(settings, patience_s) as admin:
        before = await _found(admin, [topic.name for topic in wanted])
        missing = [topic for topic in wanted if topic.name not in before]
        made = await _create(admin, missing) if missing else frozenset()
        after = await _found_all(admin, wanted, patience_s)
        return Created(
            created=tuple(topic.name for topic in wanted if topic.name in made),
            existing=tuple(topic.name for topic in wanted if topic.name not in made),
            differences=compare(wanted, after),
        )


async def check_topics(settings: RuntimeSettings, patience_s: float = 30.0) -> tuple[TopicDifference, ...]:
    """The differences from the settings; empty if there are none.

    :raises BrokerUnavailableError: no broker answered within `patience_s`.
    """
    wanted = wanted_topics(settings)
    async with _admin(settings, patience_s) as admin:
        return compare(wanted, await _found(admin, [topic.name for topic in wanted]))


async def require_topics(settings: RuntimeSettings, patience_s: float = 30.0) -> tuple[TopicDifference, ...]:
    """For the start of a process: wait for the broker, and for missing topics (another process may be creating them).

    Returns the differences that are only warnings.

    :raises BrokerUnavailableError: no broker answered within `patience_s`.
    :raises ConfigurationError: after `patience_s` a topic is still missing, or a difference is fatal.
    """
    deadline_s = monotonic_s() + patience_s
    wanted = wanted_topics(settings)
    async with _admin(settings, patience_s) as admin:
        while True:
            differences = compare(wanted, await _found(admin, [topic.name for topic in wanted]))
            waits = any(difference.aspect == "missing" and difference.fatal for difference in differences)
            if not waits or monotonic_s() >= deadline_s:
                break
            await asyncio.sleep(ASK_AGAIN_S)
    refuse_fatal(differences)
    return differences


async def delete_topics(settings: RuntimeSettings, patience_s: float = 10.0) -> tuple[str, ...]:
    """Delete every topic under the prefix, changelogs included: for a temporary system on a shared broker.

    :raises ConfigurationError: the prefix is shorter than `PREFIX_CHARS_MIN`, so it may match foreign topics.
    """
    if len(settings.topic_prefix) < PREFIX_CHARS_MIN:
        raise ConfigurationError(
            f"topics under {settings.topic_prefix!r} are not deleted: the prefix is too short "
            f"(at least {PREFIX_CHARS_MIN} characters)"
        )
    async with _admin(settings, patience_s) as admin:
        names = [name for name in await admin.list_topics() if name.startswith(settings.topic_prefix)]
        if names:
            await admin.delete_topics(names)
    return tuple(names)


def _wanted(settings: RuntimeSettings, topic: Topic) -> WantedTopic:
    return WantedTopic(
        name=topic.full_name(settings.topic_prefix),
        partitions=settings.partitions,
        fixed=topic.fixed,
        replication_factor=settings.replication_factor,
        config={
            "cleanup.policy": topic.cleanup,
            # A topic that is compacted only is never shortened; workers made changelogs without this setting.
            **({} if topic in CHANGELOGS else {"retention.ms": str(topic.retention_ms)}),
            "max.message.bytes": str(TOPIC_BYTES_MAX),
            "min.insync.replicas": str(settings.min_insync_replicas),
            **dict(topic.config),
        },
        vital=topic.vital,
    )


def _missing(topic: WantedTopic) -> TopicDifference:
    return TopicDifference(
        topic=topic.name, aspect="missing", setting="topic", found="missing",
        wanted=f"{topic.partitions} partitions", fatal=topic.vital,
        advice="Run `backstop topics create`.",
    )  # fmt: skip


def _partitions(topic: WantedTopic, have: FoundTopic) -> list[TopicDifference]:
    if have.partitions == topic.partitions:
        return []
    if topic.fixed:
        advice = (
            f"Set BACKSTOP_PARTITIONS={have.partitions} if the topic is right; if it is new and empty, delete it and "
            "run `backstop topics create`. Never change the partition count of a topic with records: their keys would "
            "move to other partitions."
        )
    else:
        advice = "This topic may have any count; nothing needs to be done."
    return [
        TopicDifference(
            topic=topic.name, aspect="partitions", setting="partition count", found=str(have.partitions),
            wanted=str(topic.partitions), fatal=topic.fixed, advice=advice,
        )
    ]  # fmt: skip


def _replicas(topic: WantedTopic, have: FoundTopic) -> list[TopicDifference]:
    if have.replication_factor >= topic.replication_factor:
        return []
    return [
        TopicDifference(
            topic=topic.name, aspect="replication_factor", setting="replication factor",
            found=str(have.replication_factor), wanted=str(topic.replication_factor), fatal=False,
            advice="Reassign the topic with more replicas (kafka-reassign-partitions).",
        )
    ]  # fmt: skip


def _config(topic: WantedTopic, have: FoundTopic) -> list[TopicDifference]:
    return [
        TopicDifference(
            topic=topic.name, aspect="config", setting=name, found=have.config.get(name, "unset"), wanted=wanted,
            fatal=_breaks(name, have.config.get(name), wanted),
            advice=f"Run kafka-configs --alter --topic {topic.name} --add-config '{name}=[{wanted}]'.",
        )
        for name, wanted in topic.config.items()
        if not _agrees(name, have.config.get(name), wanted)
    ]  # fmt: skip


def _agrees(name: str, have: str | None, wanted: str) -> bool:
    if have is None:
        return True  # The broker hides this setting (rights), so no difference is known.
    if name == "cleanup.policy":
        return _policies(have) == _policies(wanted)
    if name == "retention.ms":
        return have == wanted or int(have) == -1
    if name == "message.timestamp.type":
        return have == wanted
    return int(have) >= int(wanted)


def _breaks(name: str, have: str | None, wanted: str) -> bool:
    """A compacted log loses facts, and no record above the topic's size limit could be written."""
    if name == "cleanup.policy":
        return have is not None and "compact" in _policies(have) and "compact" not in _policies(wanted)
    return name == "max.message.bytes"


def _policies(value: str) -> frozenset[str]:
    return frozenset(part.strip() for part in value.split(","))


@asynccontextmanager
async def _admin(settings: RuntimeSettings, patience_s: float) -> AsyncIterator[AIOKafkaAdminClient]:
    deadline_s, first = monotonic_s() + patience_s, True
    while True:
        admin = AIOKafkaAdminClient(
            **client_options(settings), client_id="backstop-topics", request_timeout_ms=REQUEST_TIMEOUT_MS
        )
        try:
            await started(admin)
            break
        except KafkaError as error:
            if first or monotonic_s() >= deadline_s:
                told = await why_unusable(settings, error)
                if not told.passing or monotonic_s() >= deadline_s:
                    raise told.error() from error
            first = False
            await asyncio.sleep(ASK_AGAIN_S)
    try:
        with broker_errors("the broker did not answer an admin request"):
            yield admin
    finally:
        await stopped(admin)


async def _create(admin: AIOKafkaAdminClient, topics: Sequence[WantedTopic]) -> frozenset[str]:
    """The names of the topics created. The rest existed already, unknown to this broker when it was asked."""
    response = await admin.create_topics(
        [
            NewTopic(topic.name, topic.partitions, topic.replication_factor, topic_configs=dict(topic.config))
            for topic in topics
        ],
        timeout_ms=REQUEST_TIMEOUT_MS,
    )
    made: set[str] = set()
    for name, code, *message in response.topic_errors:
        if code == NO_ERROR:
            made.add(name)
        elif code != TopicAlreadyExistsError.errno:  # another process may create them at the same moment
            sentence = message[0] if message and message[0] else for_code(code).__name__
            raise ConfigurationError(f"topic {name} could not be created: {sentence}")
    return frozenset(made)


async def _found_all(
    admin: AIOKafkaAdminClient, wanted: Sequence[WantedTopic], patience_s: float
) -> dict[str, FoundTopic]:
    """As `_found`, but waits until the brokers know the new topics, for `patience_s` at most."""
    deadline_s = monotonic_s() + patience_s
    names = [topic.name for topic in wanted]
    while True:
        found = await _found(admin, names)
        if len(found) == len(names) or monotonic_s() >= deadline_s:
            return found
        await asyncio.sleep(ASK_AGAIN_S)


async def _found(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, FoundTopic]:
    # Describes all topics instead of naming ours: with auto.create.topics.enable a broker creates every topic named.
    described = {entry["topic"]: entry for entry in await admin.describe_topics() if entry["topic"] in names}
    settled = {
        name: entry["partitions"]
        for name, entry in described.items()
        if entry["error_code"] == NO_ERROR and entry["partitions"]
    }
    configs = await _configs(admin, list(settled))
    return {
        name: FoundTopic(
            name=name,
            partitions=len(partitions),
            replication_factor=min(len(partition["replicas"]) for partition in partitions),
            config=configs.get(name, {}),
        )
        for name, partitions in settled.items()
    }


async def _configs(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    configs: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(resources):
        for code, _message, _kind, name, entries in response.resources:
            if code == NO_ERROR:
                configs[name] = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
    return configs


def rows(differences: Iterable[TopicDifference]) -> list[dict[str, Any]]:
    """The differences as JSON objects, for `-o json` and logs."""
    return [
        {
            "topic": difference.topic,
            "setting": difference.setting,
            "found": difference.found,
            "wanted": difference.wanted,
            "fatal": difference.fatal,
            "advice": difference.advice,
        }
        for difference in differences
    ]
