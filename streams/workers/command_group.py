"""A consumer group on one topic of commands: take records, commit under a fence, read earlier records back.

*At most once* depends on the fence. aiokafka commits with the generation at the time of the request, not with that
under which the records were taken, and it repeats a commit through failovers and rebalances. So a commit may succeed
after the partition was revoked and assigned again. Here a commit counts only if the group's generation was the same
from the assignment to the answer, and a rebalance waits for a commit under way.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    OffsetMetadataTooLargeError,
)

from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.fetch_pace import BUSY_WAIT_MS, FetchPace
from backstop.runtime.kafka.lifetimes import started
from backstop.runtime.kafka.records import Record, record_of
from backstop.runtime.process.pausing import pause
from backstop.runtime.settings import RuntimeSettings
from schemas.unreadable import Unreadable
from streams.workers.commands import Assignment, ReadBack, Taken
from streams.workers.offsets import Committed

log = structlog.get_logger()

RETRY_S = 0.5
POLL_INTERVAL_MAX_MS = 3_600_000
"""A member that does not poll for this long leaves the group. Long, because a blocking provider stops polls too."""

FETCH_BYTES_MAX = 8 << 20


class CommandGroup(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """One member of the group `group` on `topic`. Not for concurrent use, except `commit`."""

    def __init__(
        self, settings: RuntimeSettings, *, topic: str, group: str, session_timeout_ms: int = 10_000,
        consumer: Callable[..., Any] = AIOKafkaConsumer,
    ) -> None:  # fmt: skip
        """:param consumer: makes an `AIOKafkaConsumer`, or an object that behaves the same."""
        self._new_consumer = consumer
        self._options: dict[str, Any] = client_options(settings)
        self._topic = topic
        self._group = group
        self._session_timeout_ms = session_timeout_ms
        self._consumer: Any = None
        self._pace = FetchPace()
        self._reader: Any = None
        self._commit_lock = asyncio.Lock()
        self._epoch = 0
        self._open = False
        self._generation = -1
        self._partitions: frozenset[int] = frozenset()
        self._keeps_notes = True

    @property
    def epoch(self) -> int:
        """Counts assignments. Records taken in an earlier one may belong to another member now."""
        return self._epoch

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions of the last assignment."""
        return self._partitions

    async def start(self, stop: asyncio.Event) -> None:
        """Join the group as soon as a broker answers. Returns then, or when `stop` is set."""
        while not stop.is_set():
            consumer = self._new_consumer(
                **self._options,
                client_id=self._group,
                group_id=self._group,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                session_timeout_ms=self._session_timeout_ms,
                heartbeat_interval_ms=self._session_timeout_ms // 4,
                max_poll_interval_ms=POLL_INTERVAL_MAX_MS,
                max_partition_fetch_bytes=FETCH_BYTES_MAX,
                fetch_max_wait_ms=BUSY_WAIT_MS,
            )
            consumer.subscribe([self._topic], listener=self)
            # Set before the start: the first assignment may come during it, and reads the generation.
            self._consumer = consumer
            try:
                await started(consumer)
            except KafkaConnectionError as error:
                self._consumer = None
                await consumer.stop()
                log.warning("broker_unreachable", group=self._group, error=repr(error))
                await pause(stop, RETRY_S)
                continue
            except BaseException:
                await consumer.stop()
                raise
            return

    async def stop(self) -> None:
        """Leave the group, so that its other members need not wait for the session timeout."""
        self._open = False
        for consumer in (self._consumer, self._reader):
            if consumer is not None:
                await consumer.stop()
        self._consumer = self._reader = None

    async def take(self, records_max: int, wait_ms: int) -> Taken:
        """At most `records_max` new records; none if none came within `wait_ms`.

        :raises KafkaError: an error that is not retriable (authorization, a missing topic).
        """
        if self._consumer is None:
            return Taken(self._epoch)
        try:
            batch = await self._consumer.getmany(timeout_ms=wait_ms, max_records=records_max)
            self._pace.saw(self._consumer, records=bool(batch))
        except KafkaError as error:
            if not error.retriable:
                raise
            log.warning("take_failed", group=self._group, error=repr(error))
            await asyncio.sleep(RETRY_S)
            return Taken(self._epoch)
        if not self._open or not batch:
            # A rebalance is under way: the next owner reads these records again.
            return Taken(self._epoch)
        return Taken(
            self._epoch, {tp.partition: [record_of(raw) for raw in raws] for tp, raws in batch.items() if raws}
        )

    async def assignment(self) -> Assignment:
        """As `Commands.assignment`. Retries while the broker is unavailable.

        :raises KafkaError: an error that is not retriable (authorization).
        """
        while True:
            epoch, places = self._epoch, dict.fromkeys(self._partitions, Committed())
            tps = [TopicPartition(self._topic, partition) for partition in places]
            try:
                # Not public in aiokafka 0.14, whose `committed` leaves out the metadata.
                found = await self._consumer._coordinator.fetch_committed_offsets(tps)  # noqa: SLF001
            except KafkaError as error:
                if not (error.retriable or isinstance(error, KafkaTimeoutError)):
                    raise
                log.warning("commits_not_read", group=self._group, error=repr(error))
                await asyncio.sleep(RETRY_S)
                continue
            if epoch == self._epoch:
                places |= {tp.partition: Committed(at.offset, at.metadata or "") for tp, at in found.items()}
                return Assignment(epoch, places)

    async def commit(self, epoch: int, next_offsets: Mapping[int, int], notes: Mapping[int, str] | None = None) -> bool:
        """As `Commands.commit`. Waits while the broker is unavailable.

        :raises KafkaError: an error that is not retriable (authorization).
        """
        async with self._commit_lock:
            if epoch != self._epoch or not self._open:
                return False
            try:
                await self._commit_now(next_offsets, notes or {})
            except (CommitFailedError, IllegalStateError) as error:
                # Take no more records until the next assignment has reset the positions to the committed offsets.
                self._open = False
                log.warning("commit_refused", group=self._group, error=repr(error))
                return False
            return self._generation_now() == self._generation

    async def _commit_now(self, next_offsets: Mapping[int, int], notes: Mapping[int, str]) -> None:
        if self._keeps_notes:
            try:
                await self._consumer.commit(self._offsets(next_offsets, notes))
            except OffsetMetadataTooLargeError:
                # The broker's `offset.metadata.max.bytes` is below its default. Without notes, finished commands are
                # done again after an assignment.
                self._keeps_notes = False
                log.warning(
                    "commit_notes_refused", group=self._group, chars_max=max(map(len, notes.values()), default=0)
                )
            else:
                return
        await self._consumer.commit(self._offsets(next_offsets, {}))

    def _offsets(
        self, next_offsets: Mapping[int, int], notes: Mapping[int, str]
    ) -> dict[TopicPartition, tuple[int, str]]:
        return {
            TopicPartition(self._topic, partition): (offset, notes.get(partition, ""))
            for partition, offset in next_offsets.items()
        }

    async def read_back(self, partition: int, before_offset: int, since_ms: int, records_max: int) -> ReadBack:
        """As `Commands.read_back`. Retries while the broker is unavailable.

        :raises KafkaError: an error that is not retriable (authorization).
        """
        while True:
            try:
                return await self._read_back(partition, before_offset, since_ms, records_max)
            except KafkaError as error:
                if not (error.retriable or isinstance(error, KafkaTimeoutError)):
                    raise
                log.warning("tail_not_read", group=self._group, partition=partition, error=repr(error))
                await asyncio.sleep(RETRY_S)

    async def _read_back(self, partition: int, before_offset: int, since_ms: int, records_max: int) -> ReadBack:
        reader = await self._started_reader()
        tp = TopicPartition(self._topic, partition)
        found = (await reader.offsets_for_times({tp: max(0, since_ms)}))[tp]
        log_start = (await reader.beginning_offsets([tp]))[tp]
        since_offset = before_offset if found is None else found.offset
        start = max(since_offset, before_offset - records_max, log_start)
        if start >= before_offset:
            return ReadBack((), since_ms)
        reader.assign([tp])
        reader.seek(tp, start)
        records: list[Record] = []
        found_end = False
        while not found_end:
            for raw in (await reader.getmany(tp, timeout_ms=1_000)).get(tp, ()):
                found_end = found_end or raw.offset >= before_offset
                if not found_end:
                    records.append(record_of(raw))
            # The offset may have no record (a batch that can't be read is delivered as one record).
            found_end = found_end or await reader.position(tp) >= before_offset
        # Older records may be deleted with their segment, or left out because of `records_max`.
        stamps = (record.timestamp_ms for record in records if not isinstance(record.value, Unreadable))
        whole = start == since_offset and (start > log_start or log_start == 0)
        return ReadBack(records, since_ms if whole else next(stamps, since_ms))

    async def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ARG002 - aiokafka's signature
        self._open = False
        async with self._commit_lock:
            # The next owner begins at the offset of this commit, so the rebalance waits for it.
            pass

    async def on_partitions_assigned(self, assigned: Any) -> None:
        self._epoch += 1
        self._generation = self._generation_now()
        self._partitions = frozenset(tp.partition for tp in assigned)
        self._open = True
        log.info("partitions_assigned", group=self._group, partitions=sorted(self._partitions))

    def _generation_now(self) -> int:
        if self._consumer is None:
            return -1
        # Not public in aiokafka 0.14; the fence needs it.
        return int(self._consumer._coordinator.generation)  # noqa: SLF001

    async def _started_reader(self) -> Any:
        if self._reader is None:
            reader = self._new_consumer(
                **self._options,
                client_id=f"{self._group}-tail",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                max_partition_fetch_bytes=FETCH_BYTES_MAX,
            )
            self._reader = await started(reader)
        return self._reader
