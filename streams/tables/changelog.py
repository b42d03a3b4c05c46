"""The changelog of one table: our rows written and awaited, and rows that somebody else wrote made good.

A worker that was stopped (SIGSTOP, a frozen machine) while it wrote, lost its partitions, and woke up may still land one batch of rows
that are older than those of the new owner. The new owner's store is right, but a later recovery from the changelog would bring the
old rows back. Nothing fences a plain producer, and a transaction a batch would cost more than all the rest. So it is noticed: only the
owner writes a partition of the changelog, hence its own batches follow one another without a gap in the offsets. A gap is somebody
else's batch: its keys are read, and the owner's rows for them are written again, behind it.

The woken worker sees the same gap, and knows no better than that it is the owner. So rows are compared by their versions (the last record
of the log that they have taken): nobody writes over a row that is newer than his own, and who finds one has been overtaken, and ends.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from backstop.runtime.errors import BackstopError, InvariantError
from backstop.runtime.kafka.lifetimes import running, started, stopped

log = structlog.get_logger()

BATCH_BYTES_MAX = 512 * 1024
LINGER_MS = 5
"""Between two produce requests: rows of several partitions go together. Only the partition's next batch waits for it, no output."""
SEND_TIMEOUT_MS = 30_000
READ_TIMEOUT_S = 30.0

Rows = Mapping[bytes, bytes | None]


class OvertakenError(BackstopError):
    """Another worker has the partition, and is further on in its log than we are. This process must end, and write no more rows."""


class ChangelogTruncatedError(InvariantError):
    """The changelog lost rows that it had acknowledged. This process must end: its store is now ahead, and the next start mends that."""


class ChangelogProducer:
    """One producer for all changelogs of the process: rows of several tables go to a broker in one request."""

    def __init__(self, options: Mapping[str, Any], client_id: str) -> None:
        """:param options: connection options, as `backstop.runtime.kafka.client.client_options`."""
        self.options = dict(options)
        self._client_id = client_id
        self._producer: AIOKafkaProducer | None = None
        self._users = 0
        self._lock = asyncio.Lock()

    async def start(self) -> AIOKafkaProducer:
        """To be called once by each user, and `stop` as often."""
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
    """Partitions of one changelog topic that this process owns."""

    def __init__(self, topic: Callable[[], str], shared: ChangelogProducer) -> None:
        self._topic = topic
        self._shared = shared
        self._producer: AIOKafkaProducer | None = None
        self._expected: dict[int, int] = {}
        """Per owned partition, the offset that our next record must get if nobody else writes there."""
        self._acknowledged: dict[int, int] = {}
        """Per owned partition, where the log ended behind the last record that we were told of. `_expected` may be further on: `notice` may
        see a row of ours before its acknowledgement does."""
        self._foreign: dict[int, list[tuple[int, int]]] = {}
        self.reasserted = 0
        """Rows written again, for metrics: each one is a row that a zombie had put back."""

    async def start(self) -> int:
        """Returns how many partitions the topic has."""
        self._producer = await self._shared.start()
        return len(await self._producer.partitions_for(self._topic()))

    async def stop(self) -> None:
        if self._producer is not None:
            self._producer = None
            await self._shared.stop()

    def own(self, next_offsets: Mapping[int, int]) -> None:
        """After a recovery: exactly these partitions are ours, recovered up to these offsets."""
        self._expected = dict(next_offsets)
        self._acknowledged = dict(next_offsets)
        self._foreign = {}

    async def send(self, partition: int, rows: Rows) -> int | None:
        """Rows to the changelog, acknowledged by all in-sync replicas; returns the last offset, None if the broker did not say."""
        producer = self._producer
        if producer is None:
            raise InvariantError(f"{self._topic()}: a write before the table has started")
        waits = []
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
            last = self._landed(partition, (await wait).offset, count)
        return last

    def foreign(self, partition: int) -> bool:
        """Whether somebody else's rows stand between ours."""
        return bool(self._foreign.get(partition))

    async def notice(self, partitions: set[int]) -> None:
        """Compare the ends of idle partitions with what we wrote: a zombie's batch may be the last one."""
        wanted = {
            TopicPartition(self._topic(), partition): partition for partition in partitions & self._expected.keys()
        }
        if not wanted:
            return
        before = dict(self._expected)
        async with self._reader() as reader:
            ends = await reader.end_offsets(list(wanted))
        for tp, partition in wanted.items():
            # If we wrote meanwhile, the write itself has compared.
            if self._expected.get(partition) == before[partition] < ends[tp]:
                self._foreign.setdefault(partition, []).append((before[partition], ends[tp]))
                self._expected[partition] = ends[tp]

    async def make_good(
        self, partition: int, current: Callable[[bytes], bytes | None], is_ahead: Callable[[bytes, bytes], bool]
    ) -> None:
        """Write `current(key)` again for each key that somebody else wrote. Called with no other write of the partition under way.

        :param is_ahead: whether a row of somebody else's for a key has taken more of the log than we have.
        :raises OvertakenError: one has.
        """
        for start, end in self._foreign.pop(partition, []):
            written = await self._read(partition, start, end)
            theirs = {key: value for key, value in written.items() if value != current(key)}
            log.error(
                "rows of another writer", topic=self._topic(), partition=partition, offset=start, keys=len(written)
            )
            if any(value is not None and is_ahead(key, value) for key, value in theirs.items()):
                raise OvertakenError(f"partition {partition} of {self._topic()} has an owner that is further on")
            rows = {key: current(key) for key in theirs}
            if rows:
                self.reasserted += len(rows)
                await self.send(partition, rows)

    def _landed(self, partition: int, offset: int, count: int) -> int | None:
        if offset < 0:
            # It is there, and nobody said where (a repeat that the broker knew): our own rows will look like somebody else's, which
            # costs a look. Not to expect anything would be to overlook a zombie's, or our heir's.
            return None
        expected, acknowledged = self._expected.get(partition), self._acknowledged.get(partition, 0)
        if offset < acknowledged:
            raise ChangelogTruncatedError(
                f"partition {partition} of {self._topic()} ends at {offset} and had {acknowledged} records: an unclean leader election?"
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
            while await reader.position(tp) < end:
                for record in (await reader.getmany(tp, timeout_ms=200)).get(tp, ()):
                    if record.offset < end and record.key is not None:
                        found[record.key] = record.value
        return found

    def _reader(self) -> AbstractAsyncContextManager[Any]:
        return running(AIOKafkaConsumer(**self._shared.options, enable_auto_commit=False, auto_offset_reset="earliest"))
