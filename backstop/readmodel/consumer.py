"""Reads the logs for the projection: committed records only, from the offsets in the database.

Kafka's group only distributes the partitions. The offsets come from the database; the commits to Kafka serve lag tools,
and are never read back.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.fetch_pace import BUSY_WAIT_MS, FetchPace
from backstop.runtime.kafka.lifetimes import started
from backstop.runtime.kafka.records import Record, record_of
from backstop.runtime.settings import RuntimeSettings

TOPICS = ("jobs", "responses", "results", "dead-letters")
Partition = tuple[str, int]
"""Logical topic and partition."""

POLL_MS = 200
"""Wait of a poll without records; a poll with records returns at once."""
FETCH_BYTES_MIN = 128 * 1024
"""More than arrives within `BUSY_WAIT_MS`, so a fetch gathers records for that long, and fewer transactions are
made. Readers of the database do not notice 20 ms; broker and disk save nine tenths of the requests.
"""
SESSION_MS = 6_000
"""The broker's default minimum: the time until a killed projection's partitions move to another one."""
HEARTBEAT_MS = 2_000


class LogConsumer:
    """A member of the projection's group. `start` after a `stop` joins anew."""

    def __init__(
        self, settings: RuntimeSettings, group: str | None, lost: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """`lost` is awaited before and after partitions move: all claims must then be made
        again. Without a group the consumer reads all partitions, and none moves.
        """
        self._settings = settings
        self._prefix = settings.topic_prefix
        self._group = group
        self._lost = lost
        self._consumer: AIOKafkaConsumer | None = None
        self._pace = FetchPace(FETCH_BYTES_MIN)

    async def start(self) -> None:
        """Join the group.

        :raises BrokerUnavailableError: no broker answered.
        """
        consumer = AIOKafkaConsumer(
            **client_options(self._settings),
            client_id="backstop-readmodel",
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=BUSY_WAIT_MS,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
        )
        listener = None if self._lost is None else _Listener(self._lost)
        consumer.subscribe([f"{self._prefix}{topic}" for topic in TOPICS], listener=listener)
        try:
            await started(consumer)
        except (KafkaError, OSError) as error:
            raise BrokerUnavailableError(f"the read model's consumer could not start: {error!r}") from error
        self._consumer = consumer

    async def stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    @property
    def started(self) -> bool:
        return self._consumer is not None

    def assigned(self) -> frozenset[Partition]:
        return frozenset(self._from(partition) for partition in self._live().assignment())

    def seek(self, positions: Mapping[Partition, int]) -> None:
        """Continue from these offsets. If retention has removed an offset, reading starts at the earliest record."""
        for partition, offset in positions.items():
            self._live().seek(self._to(partition), offset)

    async def end_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offset after each partition's last committed record.

        :raises BrokerUnavailableError: no answer.
        """
        return await self._offsets(self._live().end_offsets, partitions)

    async def first_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offset of each partition's first retained record.

        :raises BrokerUnavailableError: no answer.
        """
        return await self._offsets(self._live().beginning_offsets, partitions)

    async def _offsets(
        self,
        ask: Callable[[list[TopicPartition]], Awaitable[dict[TopicPartition, int]]],
        partitions: Iterable[Partition],
    ) -> dict[Partition, int]:
        wanted = [self._to(partition) for partition in partitions]
        if not wanted:
            return {}
        try:
            found = await ask(wanted)
        except KafkaError as error:
            raise BrokerUnavailableError(f"offsets: {error!r}") from error
        return {self._from(partition): offset for partition, offset in found.items()}

    async def poll(self, records_max: int, timeout_ms: int = POLL_MS) -> dict[Partition, list[Record]]:
        """The next records, in order per partition.

        :raises BrokerUnavailableError: the client gave up; passing.
        """
        try:
            found = await self._live().getmany(timeout_ms=timeout_ms, max_records=records_max)
            self._pace.saw(self._live(), records=bool(found))
        except KafkaError as error:
            raise BrokerUnavailableError(f"poll: {error!r}") from error
        return {
            self._from(partition): [record_of(record) for record in records] for partition, records in found.items()
        }

    async def positions(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The next offset to read: after the records returned so far,
        and after transaction markers, which are not returned.
        """
        try:
            return {partition: await self._live().position(self._to(partition)) for partition in partitions}
        except KafkaError as error:
            raise BrokerUnavailableError(f"positions: {error!r}") from error

    async def commit(self, positions: Mapping[Partition, int]) -> None:
        """Commit for Kafka's lag tools. Failures are ignored: the next commit repeats it."""
        try:
            await self._live().commit({self._to(partition): offset for partition, offset in positions.items()})
        except (KafkaError, ValueError):  # ValueError: a partition that moved meanwhile
            return

    def _live(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise BrokerUnavailableError("the consumer is not started")
        return self._consumer

    def _to(self, partition: Partition) -> TopicPartition:
        return TopicPartition(f"{self._prefix}{partition[0]}", partition[1])

    def _from(self, partition: TopicPartition) -> Partition:
        return partition.topic.removeprefix(self._prefix), partition.partition


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    def __init__(self, lost: Callable[[], Awaitable[None]]) -> None:
        self._lost = lost

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:  # noqa: ARG002 - aiokafka's signature
        await self._lost()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:  # noqa: ARG002 - as above
        await self._lost()
