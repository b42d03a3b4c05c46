"""A member of the consumer group that reads `results` and `deliveries`.

Each partition is read from the group's committed offset. In `deliveries` that commit is a checkpoint
(`backstop.outgoing.log`), and no delivery of a partition is acted on before the partition is read to the end it had
when assigned.

There is no fencing: two members that own a partition for a moment send a webhook twice, under one id.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.fetch_pace import BUSY_WAIT_MS, FetchPace
from backstop.runtime.kafka.lifetimes import started
from backstop.runtime.kafka.records import Record, record_of
from backstop.runtime.process.logs import get_logger
from backstop.runtime.settings import RuntimeSettings

log = get_logger("backstop.outgoing.group")

RESULTS = "results"
DELIVERIES = "deliveries"
POLL_INTERVAL_MAX_MS = 3_600_000


Partition = tuple[str, int]
"""Logical topic and partition."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """The new assignment, which replaces the former one. `ends`: the end offsets of the partitions of `deliveries`.

    `settled` is False between losing one assignment and getting the next.
    """

    ends: Mapping[int, int]
    settled: bool = True


Polled = Mapping[Partition, list[Record]]


class OutgoingGroup(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Not safe for concurrent use: one task at a time."""

    def __init__(self, settings: RuntimeSettings, session_timeout_ms: int) -> None:
        self._settings = settings
        self._prefix = settings.topic_prefix
        self._session_timeout_ms = session_timeout_ms
        self._consumer: AIOKafkaConsumer | None = None
        self._pace = FetchPace()
        self._away = False
        """True between the loss of an assignment and the next one."""
        self._epoch = 0
        self._adopted = 0

    async def start(self) -> None:
        """Join the group.

        :raises BrokerUnavailableError: no broker answered.
        """
        group = f"{self._prefix}outgoing"
        consumer = AIOKafkaConsumer(
            **client_options(self._settings),
            client_id="backstop-outgoing",
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=self._session_timeout_ms,
            heartbeat_interval_ms=self._session_timeout_ms // 4,
            max_poll_interval_ms=POLL_INTERVAL_MAX_MS,
            fetch_max_wait_ms=BUSY_WAIT_MS,
        )
        consumer.subscribe([f"{self._prefix}{RESULTS}", f"{self._prefix}{DELIVERIES}"], listener=self)
        self._consumer = consumer
        try:
            await started(consumer)
        except (KafkaError, OSError) as error:
            await self.stop()
            raise BrokerUnavailableError(f"the group can't be joined: {error!r}") from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Leave the group, so that other members get the partitions before the session times out."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def poll(self, records_max: int, wait_ms: int) -> Assigned | Polled:
        """New records; or a new assignment, always before the first records of it.

        :raises BrokerUnavailableError: passing.
        """
        consumer, epoch = self._live(), self._epoch
        try:
            if epoch != self._adopted:
                return await self._adopt(consumer, epoch)
            batches = await consumer.getmany(timeout_ms=wait_ms, max_records=records_max)
        except KafkaError as error:
            raise BrokerUnavailableError(f"poll: {error!r}") from error
        self._pace.saw(consumer, records=bool(batches))
        if self._epoch != epoch:
            # A rebalance during the poll: these records may belong to another member. The new owner reads them from the
            # commit.
            return {}
        return {self._from(tp): [record_of(raw) for raw in raws] for tp, raws in batches.items() if raws}

    async def positions(self, partitions: Iterable[int]) -> dict[int, int]:
        """The next offsets to read in these partitions of `deliveries`. Partitions that moved away are left out."""
        consumer, found = self._live(), {}
        for partition in partitions:
            try:
                found[partition] = await consumer.position(self._to((DELIVERIES, partition)))
            except KafkaError:
                continue
        return found

    async def commit(self, offsets: Mapping[Partition, int]) -> bool:
        """False: not committed, because a partition moved or the
        broker is away. Harmless: the records are read again.
        """
        if not offsets or self._epoch != self._adopted or self._away:
            return False
        try:
            await self._live().commit({self._to(partition): offset for partition, offset in offsets.items()})
        except (KafkaError, ValueError) as error:  # ValueError: a partition that moved meanwhile
            log.warning("commit_refused", error=repr(error))
            return False
        return True

    async def _adopt(self, consumer: AIOKafkaConsumer, epoch: int) -> Assigned:
        if self._away:
            self._adopted = epoch
            return Assigned({}, settled=False)
        partitions = sorted(consumer.assignment())
        for tp in partitions:
            committed = await consumer.committed(tp)
            if committed is None:
                committed = (await consumer.beginning_offsets([tp]))[tp]
            consumer.seek(tp, committed)
        ours = [tp for tp in partitions if self._from(tp)[0] == DELIVERIES]
        ends = await consumer.end_offsets(ours) if ours else {}
        self._adopted = epoch
        log.info("partitions_assigned", partitions=[f"{name}-{number}" for name, number in map(self._from, partitions)])
        return Assigned({tp.partition: end for tp, end in ends.items()})

    async def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ARG002 - aiokafka's signature
        self._away = True
        self._epoch += 1

    async def on_partitions_assigned(self, assigned: Any) -> None:  # noqa: ARG002 - as above
        self._away = False
        self._epoch += 1

    def _live(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise BrokerUnavailableError("the group is not joined")
        return self._consumer

    def _to(self, partition: Partition) -> TopicPartition:
        return TopicPartition(f"{self._prefix}{partition[0]}", partition[1])

    def _from(self, partition: TopicPartition) -> Partition:
        return partition.topic.removeprefix(self._prefix), partition.partition
