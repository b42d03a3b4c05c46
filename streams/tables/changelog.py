"""The changelog of one table. Writes rows (acknowledged) and repairs rows written by a former owner.

A worker that was stopped (SIGSTOP, a frozen machine) during a write, lost its partitions and woke up may still append
one batch of foreign rows, older than those of the next owner. The next owner's store is right, but a later recovery
from the changelog would restore the old rows. A plain producer has no fence, and a transaction per batch would cost
more than everything else. So foreign rows are detected: only the owner writes a partition of the changelog, hence its
batches follow one another without a gap in the offsets. A gap is a foreign batch: its keys are read, and the owner
writes its rows for them again.

The woken worker sees the same gap and takes itself for the owner. So rows are compared by version (the offset of the
last record of the log that they have taken): a worker never overwrites a newer row. A worker that finds one has been
overtaken, and ends.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from backstop.runtime.errors import BackstopError, InvariantError
from backstop.runtime.kafka.lifetimes import running, started, stopped
from backstop.runtime.kafka.topic_reader import read_to

log = structlog.get_logger()

BATCH_BYTES_MAX = 512 * 1024
LINGER_MS = 5
"""Collects the rows of several partitions in one produce request. It delays a partition's next batch, but no output."""
SEND_TIMEOUT_MS = 30_000
READ_TIMEOUT_S = 30.0

Rows = Mapping[bytes, bytes | None]


class OvertakenError(BackstopError):
    """Another worker owns the partition and has taken more of its log. This process must end and write no more rows."""


class ChangelogTruncatedError(InvariantError):
    """The changelog lost acknowledged rows. This process must end; the next start rebuilds the store, now ahead."""


class ChangelogProducer:
    """One producer for all changelogs of the process: the rows of several tables share produce requests."""

    def __init__(self, options: Mapping[str, Any], client_id: str) -> None:
        """:param options: connection options, as `backstop.runtime.kafka.client.client_options`."""
        self.options = dict(options)
        self._client_id = client_id
        self._producer: AIOKafkaProducer | None = None
        self._users = 0
        self._lock = asyncio.Lock()

    async def start(self) -> AIOKafkaProducer:
        """To be called once by each user; each user calls `stop` once."""
        async with self._lock:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **self.options,
                    client_id=self._client_id,
                    enable_idempotence=True,
                    acks="all",
                    linger_ms=LINGER_MS,
                    max_batch_size=BATCH_BYTES_MAX,
                    request_timeout_ms=SEND_TIMEOUT_MS,
                )
                self._producer = await started(producer)
            self._users += 1
            return self._producer

    async def stop(self) -> None:
        async with self._lock:
            self._users -= 1
            if self._users == 0 and self._producer is not None:
                producer, self._producer = self._producer, None
                await stopped(producer)


class Changelog:
    """The partitions of one changelog topic that this process owns."""

    def __init__(self, topic: Callable[[], str], shared: ChangelogProducer) -> None:
        self._topic = topic
        self._shared = shared
        self._producer: AIOKafkaProducer | None = None
        self._expected: dict[int, int] = {}
        """Per owned partition, the offset of our next record, unless another worker writes there."""
        self._acknowledged: dict[int, int] = {}
        """Per owned partition, the offset after our last acknowledged record. `_expected` may be higher: `notice` may
        see a row of ours before its acknowledgement arrives."""
        self._foreign: dict[int, list[tuple[int, int]]] = {}
        self.term = 0
        """Grows with each assignment. What was sent in an earlier term is foreign: the partition may have had another
        owner in between, whose rows are newer."""
        self.reasserted = 0
        """Rows written again after a former owner had overwritten them: for metrics."""

    async def start(self) -> int:
        """Start the producer; return the topic's number of partitions."""
        self._producer = await self._shared.start()
        return len(await self._producer.partitions_for(self._topic()))

    async def stop(self) -> None:
        if self._producer is not None:
            self._producer = None
            await self._shared.stop()

    def own(self, next_offsets: Mapping[int, int]) -> None:
        """Set the owned partitions after a recovery, each with the offset after its last recovered record."""
        self.term += 1
        self._expected = dict(next_offsets)
        self._acknowledged = dict(next_offsets)
        self._foreign = {}

    async def send(self, partition: int, rows: Rows) -> int | None:
        """Write rows, acknowledged by all in-sync replicas. Returns the last offset; None if the broker told none."""
        producer = self._producer
        if producer is None:
            raise InvariantError(f"{self._topic()}: write before the table was started")
        term, waits = self.term, []
        batch, size = producer.create_batch(), 0
        for key, value in rows.items():
            if batch.append(key=key, value=value, timestamp=None) is None:
                waits.append((await self._send_batch(producer, batch, partition), size))
                batch, size = producer.create_batch(), 0
                batch.append(key=key, value=value, timestamp=None)
            size += 1
        waits.append((await self._send_batch(producer, batch, partition), size))
        last: int | None = None
        for wait, count in waits:
            last = self._landed(partition, (await wait).offset, count, term)
        return last

    def foreign(self, partition: int) -> bool:
        """Whether foreign rows were detected that are not repaired yet."""
        return bool(self._foreign.get(partition))

    async def notice(self, partitions: set[int]) -> None:
        """Detect foreign rows at the end of idle partitions, where no later write of ours reveals the gap."""
        wanted = {
            TopicPartition(self._topic(), partition): partition for partition in partitions & self._expected.keys()
        }
        if not wanted:
            return
        before = dict(self._expected)
        async with self._reader() as reader:
            ends = await reader.end_offsets(list(wanted))
        for tp, partition in wanted.items():
            # A write of ours in the meantime has compared the offsets itself.
            if self._expected.get(partition) == before[partition] < ends[tp]:
                self._foreign.setdefault(partition, []).append((before[partition], ends[tp]))
                self._expected[partition] = ends[tp]

    async def make_good(
        self, partition: int, current: Callable[[bytes], bytes | None], is_ahead: Callable[[bytes, bytes], bool]
    ) -> dict[bytes, bytes | None]:
        """Write `current(key)` again for each key of a foreign row that differs. No other write of the partition may be
        under way.

        :param is_ahead: whether a foreign row for a key has taken more of the log than this worker has.
        :returns: the row of each key of a foreign row, as the changelog ends with it now.
        :raises OvertakenError: a foreign row has.
        """
        found, last = self._foreign.pop(partition, []), dict[bytes, bytes | None]()
        try:
            for start, end in found:
                last |= await self._made_good(partition, start, end, current, is_ahead)
        except BaseException:
            # A second write that waits for this one must not pass over them: it would end with their offset stored.
            self._foreign[partition] = found + self._foreign.get(partition, [])
            raise
        return last

    async def _made_good(
        self, partition: int, start: int, end: int, current: Callable[[bytes], bytes | None],
        is_ahead: Callable[[bytes, bytes], bool],
    ) -> dict[bytes, bytes | None]:  # fmt: skip
        written = await self._read(partition, start, end)
        ours = {key: current(key) for key in written}
        foreign_rows = {key: value for key, value in written.items() if value != ours[key]}
        log.error("rows of another writer", topic=self._topic(), partition=partition, offset=start, keys=len(written))
        if any(value is not None and is_ahead(key, value) for key, value in foreign_rows.items()):
            raise OvertakenError(
                f"partition {partition} of {self._topic()}: another worker owns it and is ahead; this one must end"
            )
        rows = {key: ours[key] for key in foreign_rows}
        if rows:
            self.reasserted += len(rows)
            await self.send(partition, rows)
        return ours

    def _landed(self, partition: int, offset: int, count: int, term: int) -> int | None:
        if offset < 0:
            # The batch is written, but the broker did not tell its offset (it recognised a repeat). Keep the expected
            # offset: these rows will seem foreign and cost one read. Expecting no offset would hide rows of a former or
            # next owner.
            return None
        expected, acknowledged = self._expected.get(partition), self._acknowledged.get(partition, 0)
        if term != self.term:
            # Where the recovery has read the batch, or a later write has seen it as a gap, it is known already.
            if expected is not None and offset + count > expected:
                self._foreign.setdefault(partition, []).append((expected, offset + count))
                self._expected[partition] = self._acknowledged[partition] = offset + count
            return None
        if offset < acknowledged:
            raise ChangelogTruncatedError(
                f"partition {partition} of {self._topic()} was truncated: a new record got offset {offset}, but "
                f"records up to {acknowledged - 1} were acknowledged; check for an unclean leader election"
            )
        if expected is not None and offset > expected:
            self._foreign.setdefault(partition, []).append((expected, offset))
        self._expected[partition] = self._acknowledged[partition] = offset + count
        return offset + count - 1

    async def _send_batch(self, producer: AIOKafkaProducer, batch: Any, partition: int) -> "asyncio.Future[Any]":
        batch.close()
        sent: asyncio.Future[Any] = await producer.send_batch(batch, self._topic(), partition=partition)
        return sent

    async def _read(self, partition: int, start: int, end: int) -> dict[bytes, bytes | None]:
        """The last value of each key in [start, end)."""
        tp = TopicPartition(self._topic(), partition)
        found: dict[bytes, bytes | None] = {}
        async with self._reader() as reader, asyncio.timeout(READ_TIMEOUT_S):
            reader.assign([tp])
            reader.seek(tp, start)
            async for batches in read_to(reader, {tp: end}):
                found |= {record.key: record.value for record in batches[tp] if record.key is not None}
        return found

    def _reader(self) -> AbstractAsyncContextManager[Any]:
        return running(AIOKafkaConsumer(**self._shared.options, enable_auto_commit=False, auto_offset_reset="earliest"))
