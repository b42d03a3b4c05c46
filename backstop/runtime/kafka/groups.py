"""What the broker knows of the consumer groups: members, their partitions, and how far each partition is read."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError, for_code

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.holdings import GroupSeen, Member, Snapshot
from backstop.runtime.kafka.lifetimes import started, stopped
from backstop.runtime.process.clock import NowMs
from backstop.runtime.records import Partition
from backstop.runtime.settings import RuntimeSettings

SNAPSHOT_WITHIN_S: Final = 5.0
REQUEST_TIMEOUT_MS: Final = 5_000


class GroupReader:
    """Connects at the first request, and again after an error. Not for concurrent use."""

    def __init__(self, settings: RuntimeSettings, groups: Sequence[str], topics: Sequence[str], now_ms: NowMs) -> None:
        self._settings = settings
        self._prefix = settings.topic_prefix
        self._groups = groups
        self._topics = topics
        self._now_ms = now_ms
        self._admin: Any = None
        self._consumer: Any = None
        self._uncommitted: Any = None
        self._partitions: list[TopicPartition] = []
        self._missing: tuple[str, ...] = ()

    async def snapshot(self) -> Snapshot:
        """:raises BrokerUnavailableError: no answer, or not all of it, within `SNAPSHOT_WITHIN_S`."""
        try:
            async with asyncio.timeout(SNAPSHOT_WITHIN_S):
                await self._connect()
                if self._missing:
                    await self._find_partitions()
                cluster = await self._admin.describe_cluster()
                groups = [await self._group(name) for name in self._groups]
                ends = await self._consumer.end_offsets(self._partitions) if self._partitions else {}
                starts = await self._consumer.beginning_offsets(self._partitions) if self._partitions else {}
                written = await self._uncommitted.end_offsets(self._partitions) if self._partitions else {}
        except (KafkaError, OSError, TimeoutError) as error:
            await self.close()
            raise BrokerUnavailableError(
                f"the broker at {self._settings.kafka_bootstrap_servers} did not answer: {error!r}"
            ) from error
        return Snapshot(
            self._now_ms(), tuple(groups), self._by_partition(ends), len(cluster.get("brokers", ())),
            self._by_partition(starts), self._by_partition(written), self._missing,
        )  # fmt: skip

    def _by_partition(self, offsets: Mapping[TopicPartition, int]) -> dict[Partition, int]:
        return {self._from(tp.topic, tp.partition): offset for tp, offset in offsets.items()}

    async def close(self) -> None:
        clients = (self._admin, self._consumer, self._uncommitted)
        self._admin = self._consumer = self._uncommitted = None
        for client in clients:
            if client is not None:
                await stopped(client)

    async def _connect(self) -> None:
        if self._uncommitted is not None:
            return
        options = client_options(self._settings) | {"client_id": "backstop-status"}
        self._admin = await started(AIOKafkaAdminClient(**options, request_timeout_ms=REQUEST_TIMEOUT_MS))
        await self._find_partitions()
        # Ends differ between the two where a transaction is open.
        self._consumer = await started(self._made(options, "read_committed"))
        self._uncommitted = await started(self._made(options, "read_uncommitted"))

    async def _find_partitions(self) -> None:
        # All topics, not ours by name: with auto.create.topics.enable a broker creates every topic named.
        described = await self._admin.describe_topics()
        found = {topic["topic"]: topic for topic in described if topic["error_code"] == 0}
        names = [f"{self._prefix}{topic}" for topic in self._topics]
        self._missing = tuple(name for name in names if name not in found)
        self._partitions = [
            TopicPartition(name, part["partition"])
            for name in names
            if name in found
            for part in found[name]["partitions"]
        ]

    def _made(self, options: Mapping[str, Any], isolation_level: str) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **options, group_id=None, enable_auto_commit=False, request_timeout_ms=REQUEST_TIMEOUT_MS,
            isolation_level=isolation_level,
        )  # fmt: skip

    async def _group(self, name: str) -> GroupSeen:
        full = f"{self._prefix}{name}"
        coordinator = await self._admin.find_coordinator(full)
        (answer,) = await self._admin.describe_consumer_groups([full], coordinator)
        error_code, _group, state, _type, _protocol, members = answer.groups[0][:6]
        if error_code:
            raise for_code(error_code)(f"group {full}")
        committed = await self._admin.list_consumer_group_offsets(full, coordinator)
        return GroupSeen(
            name,
            state,
            tuple(self._member(member) for member in members),
            {self._from(tp.topic, tp.partition): found.offset for tp, found in committed.items() if found.offset >= 0},
        )

    def _member(self, told: Sequence[Any]) -> Member:
        _member_id, client_id, host, _metadata, assignment = told[:5]
        assigned = ConsumerProtocolMemberAssignment.decode(assignment).partitions() if assignment else []
        return Member(
            client_id, host.removeprefix("/"), frozenset(self._from(tp.topic, tp.partition) for tp in assigned)
        )

    def _from(self, topic: str, partition: int) -> Partition:
        return topic.removeprefix(self._prefix), partition
