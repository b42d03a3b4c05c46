"""The logs as the projection reads them: committed records only, from where the database says.

Kafka's group only shares the partitions out. Where each begins comes from the database; what is committed to Kafka is for
lag tools, and never read back.
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
"""How long an idle poll waits; one with records returns at once."""
FETCH_BYTES_MIN = 128 * 1024
"""More than comes in `BUSY_WAIT_MS`: so a fetch gathers records for that long, instead of bringing each one by itself and making a
transaction of it. A reader of the database does not notice 20 ms; the broker and the disk notice a tenth of the requests."""
SESSION_MS = 6_000
"""The least that a broker allows by default: how long a killed projection keeps its partitions from the next one."""
HEARTBEAT_MS = 2_000


class LogConsumer:
    """A member of the projection's group. Made afresh after each `stop`."""

    def __init__(
        self, settings: RuntimeSettings, group: str | None, lost: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """`lost` is awaited before partitions move, and after: whatever was claimed is then to be claimed again. Without a
        group all partitions are read, and none moves.
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
        """Read on from here. A position that retention has overtaken reads from the earliest record."""
        for partition, offset in positions.items():
            self._live().seek(self._to(partition), offset)

    async def end_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offset after the last committed record of each.

        :raises BrokerUnavailableError: no answer.
        """
        return await self._offsets(self._live().end_offsets, partitions)

    async def first_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offset of the first record that retention has left of each.

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
        """Where the next poll reads on: past records that were given out, and past markers of transactions, which are not."""
        try:
            return {partition: await self._live().position(self._to(partition)) for partition in partitions}
        except KafkaError as error:
            raise BrokerUnavailableError(f"positions: {error!r}") from error

    async def commit(self, positions: Mapping[Partition, int]) -> None:
        """Tell Kafka's lag tools. What fails here is told again with the next commit."""
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
