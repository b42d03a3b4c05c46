"""One member of a consumer group: takes records, and commits under a fence.

*At most once* depends on the fence. aiokafka commits with the generation at the time of the request, not with that
under which the records were taken, and it repeats a commit through failovers and rebalances. So a commit may succeed
after the partition was revoked and assigned again. Here a commit counts only if the group's generation was the same
from the assignment to the answer, and a rebalance waits for a commit under way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, OffsetMetadataTooLargeError
from aiokafka.structs import OffsetAndMetadata

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.fetch_wait import BUSY_WAIT_MS, FetchWait
from backstop.runtime.kafka.lifetimes import started
from backstop.runtime.process.identity import own_name
from backstop.runtime.records import Partition, Record, record_of
from backstop.runtime.settings import RuntimeSettings

log = structlog.get_logger()

POLL_INTERVAL_MAX_MS = 3_600_000
"""A member that does not poll for this long leaves the group. Long, because a blocking provider or database stops polls
too."""


@dataclass(frozen=True, slots=True)
class GroupRecords:
    """New records of each partition, and the assignment (`epoch`) under which they were taken."""

    epoch: int
    by_partition: Mapping[Partition, list[Record]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GroupAssignment:
    """The partitions owned since `epoch`, each with its commit and note; None if none was ever made."""

    epoch: int
    places: Mapping[Partition, OffsetAndMetadata | None] = field(default_factory=dict)


class ConsumerGroup(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Not for concurrent use, except `commit`. Topics and groups are named without the prefix.

    Methods raise the KafkaError of aiokafka, and BrokerUnavailableError before `join`.
    """

    def __init__(
        self, settings: RuntimeSettings, *, topics: Sequence[str], group: str, session_timeout_ms: int = 10_000,
        moving: Callable[[], Awaitable[None]] | None = None, pace: FetchWait | None = None,
        joined: Callable[[str, str], None] | None = None,
        consumer: Callable[..., Any] = AIOKafkaConsumer, **options: Any,
    ) -> None:  # fmt: skip
        """:param moving: is awaited before and after partitions move.
        :param pace: of its fetches; the usual one if not given.
        :param joined: is told the group's full name and the member id at each assignment.
        :param consumer: makes an `AIOKafkaConsumer`, or an object that behaves the same.
        :param options: further options of that consumer.
        """
        self._prefix = settings.topic_prefix
        self._topics = [f"{self._prefix}{topic}" for topic in topics]
        self.name = f"{self._prefix}{group}"
        self._new_consumer = consumer
        self._options: dict[str, Any] = {
            **client_options(settings),
            "client_id": str(own_name(group)),
            "group_id": self.name,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "session_timeout_ms": session_timeout_ms,
            "heartbeat_interval_ms": session_timeout_ms // 4,
            "max_poll_interval_ms": POLL_INTERVAL_MAX_MS,
            "fetch_max_wait_ms": BUSY_WAIT_MS,
            **options,
        }
        self._moving = moving
        self._joined = joined
        self._consumer: Any = None
        self._fetch_wait = pace or FetchWait()
        self._commit_lock = asyncio.Lock()
        self._epoch = 0
        self._open = False
        self._generation = -1
        self._partitions: tuple[Partition, ...] = ()
        """In order: with a set's order, which follows Python's hash seed, a simulated run would differ by process."""
        self._keeps_notes = True

    @property
    def epoch(self) -> int:
        """Counts assignments. Records taken in an earlier one may belong to another member now."""
        return self._epoch

    @property
    def partitions(self) -> frozenset[Partition]:
        """The partitions of the last assignment."""
        return frozenset(self._partitions)

    @property
    def joined(self) -> bool:
        return self._consumer is not None

    @property
    def owns(self) -> bool:
        """Whether `partitions` are owned. False between losing one assignment and getting the next."""
        return self._open

    async def join(self) -> None:
        """Join the group; after `stop` as a new member."""
        consumer = self._new_consumer(**self._options)
        consumer.subscribe(self._topics, listener=self)
        # Set before the start: the first assignment may come during it, and reads the generation.
        self._consumer = consumer
        try:
            await started(consumer)
        except BaseException:
            self._consumer = None
            raise

    async def stop(self) -> None:
        """Leave the group, so that its other members need not wait for the session timeout."""
        self._open = False
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def take(self, records_max: int, wait_ms: int) -> GroupRecords:
        """At most `records_max` new records; none if none came within `wait_ms`, or during a rebalance."""
        consumer = self._live()
        batches = await consumer.getmany(timeout_ms=wait_ms, max_records=records_max)
        self._fetch_wait.saw(consumer, records=bool(batches))
        if not self._open:
            # A rebalance is under way: the next owner reads these records again.
            return GroupRecords(self._epoch)
        return GroupRecords(
            self._epoch, {self._from(tp): [record_of(raw) for raw in raws] for tp, raws in batches.items()}
        )

    async def assignment(self) -> GroupAssignment:
        """The last assignment, with the commits of its partitions."""
        while True:
            epoch, partitions = self._epoch, self._partitions
            # Not public in aiokafka 0.14, whose `committed` leaves out the metadata.
            coordinator = self._live()._coordinator  # noqa: SLF001
            found = await coordinator.fetch_committed_offsets([self._to(partition) for partition in partitions])
            if epoch == self._epoch:
                return GroupAssignment(epoch, {p: found.get(self._to(p)) for p in partitions})

    async def commit(
        self, epoch: int, next_offsets: Mapping[Partition, int], notes: Mapping[Partition, str] | None = None
    ) -> bool:
        """Commit records taken in `epoch`. True only if the group has the commit, and no rebalance came between.

        Waits while the broker is unavailable.

        :param notes: for the next owner of each partition, see `assignment`. They may get lost.
        """
        async with self._commit_lock:
            if epoch != self._epoch or not self._open:
                return False
            try:
                await self._commit_now(next_offsets, notes or {})
            except (CommitFailedError, IllegalStateError) as error:
                # Take no more records until the next assignment has reset the positions to the committed offsets.
                self._open = False
                log.warning("commit_refused", group=self.name, error=repr(error))
                return False
            return self._generation_now() == self._generation

    async def _commit_now(self, next_offsets: Mapping[Partition, int], notes: Mapping[Partition, str]) -> None:
        if self._keeps_notes:
            try:
                await self._commit_with(next_offsets, notes)
            except OffsetMetadataTooLargeError:
                # The broker's `offset.metadata.max.bytes` is below its default. Without notes, finished commands are
                # done again after an assignment.
                self._keeps_notes = False
                longest = max(map(len, notes.values()), default=0)
                log.warning("commit_notes_refused", group=self.name, chars_max=longest)
            else:
                return
        await self._commit_with(next_offsets, {})

    async def _commit_with(self, next_offsets: Mapping[Partition, int], notes: Mapping[Partition, str]) -> None:
        await self._live().commit({self._to(p): (offset, notes.get(p, "")) for p, offset in next_offsets.items()})

    def seek(self, positions: Mapping[Partition, int]) -> None:
        """Continue from these offsets. If retention has removed an offset, reading starts at the earliest record."""
        for partition, offset in positions.items():
            self._live().seek(self._to(partition), offset)

    async def positions(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The next offset to read of each partition: after the records taken so far, and after transaction markers,
        which are no records. Partitions that moved away are left out.
        """
        consumer, found = self._live(), dict[Partition, int]()
        for partition in partitions:
            try:
                found[partition] = await consumer.position(self._to(partition))
            except IllegalStateError:
                continue
        return found

    async def first_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offset of each partition's first retained record."""
        return await self._offsets(self._live().beginning_offsets, partitions)

    async def end_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offset after each partition's last record; after its last committed one, where only those are read."""
        return await self._offsets(self._live().end_offsets, partitions)

    async def _offsets(
        self, ask: Callable[..., Awaitable[Any]], partitions: Iterable[Partition]
    ) -> dict[Partition, int]:
        wanted = [self._to(partition) for partition in partitions]
        return {self._from(tp): offset for tp, offset in (await ask(wanted)).items()} if wanted else {}

    async def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ARG002 - aiokafka's signature
        self._open = False
        async with self._commit_lock:
            # The next owner begins at the offset of this commit, so the rebalance waits for it.
            pass
        if self._moving is not None:
            await self._moving()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        if self._moving is not None:
            await self._moving()
        self._epoch += 1
        self._generation = self._generation_now()
        self._partitions = tuple(sorted(self._from(tp) for tp in assigned))
        self._open = True
        if self._joined is not None:
            self._joined(self.name, self._consumer._coordinator.member_id)  # noqa: SLF001 - as the generation
        log.info("partitions_assigned", group=self.name, partitions=sorted(f"{t}-{n}" for t, n in self._partitions))

    def _live(self) -> Any:
        if self._consumer is None:
            raise BrokerUnavailableError(f"{self.name} has not joined its group")
        return self._consumer

    def _generation_now(self) -> int:
        # Not public in aiokafka 0.14; the fence needs it.
        return -1 if self._consumer is None else int(self._consumer._coordinator.generation)  # noqa: SLF001

    def _to(self, partition: Partition) -> TopicPartition:
        return TopicPartition(f"{self._prefix}{partition[0]}", partition[1])

    def _from(self, tp: TopicPartition) -> Partition:
        return tp.topic.removeprefix(self._prefix), tp.partition
