"""The publisher of `results`: a consumer sees each job's result once, also after a crash.

It needs both of these:
- A *fence* (`backstop.runtime.kafka.fences`). When the next owner of a partition opens a writer, the broker refuses
  the batches of former owners: of a worker that was stopped, lost its partitions and woke up.
- The *tail*, read after the fence: the results at the end of the partition. After a crash between the append here and
  the write of the row, the fold produces the same result again; the tail contains it, and it is skipped.

The tail must cover what one crash can repeat: the results of one batch (`BATCH_RECORDS_MAX` of the transport, 500) and
of the rows that are gathered (`GATHERED_ROWS_MAX` of the table, 500). It covers `TAIL_RECORDS_MAX` records.

A release before 0077 wrote results in transactions. The fence aborts what such a worker left open, and readers of the
topic must stay `read_committed` for what it aborted.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from backstop.runtime.errors import BackstopError
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.fences import Fence, FencedOffError, FencedRecord, FencedWriters, Writer, Writers
from backstop.runtime.kafka.headers import event_headers
from backstop.runtime.kafka.lifetimes import running
from backstop.runtime.kafka.topic_reader import read_to
from backstop.runtime.process.clock import NowMs, monotonic_s
from backstop.runtime.process.failpoints import failpoint
from backstop.runtime.settings import RuntimeSettings
from schemas.codec import PoisonError, decode, encode
from schemas.results import RESULT, JobResult
from streams import metrics

log = structlog.get_logger()

TAIL_RECORDS_MAX = 5_000
TAIL_READ_TIMEOUT_S = 30.0
RETRY_WAIT_S = 0.5


class ResultsFencedError(BackstopError):
    """Another worker owns the partition, or may own it. This process must end and acknowledge nothing."""


@dataclass(slots=True)
class _ResultsLane:
    writer: Writer
    known: dict[str, None] = field(default_factory=dict)
    """Identities (`_identity`) of the results at the end of the partition, oldest first."""

    def remember(self, identity: str) -> None:
        self.known[identity] = None
        while len(self.known) > TAIL_RECORDS_MAX:
            del self.known[next(iter(self.known))]


class ResultsPublisher:
    """Has one writer and one tail per partition, opened at the first result after each assignment."""

    def __init__(
        self, settings: RuntimeSettings, now_ms: NowMs, source: str = "worker", *,
        writers: Writers | None = None, consumer: Callable[..., Any] = AIOKafkaConsumer,
    ) -> None:  # fmt: skip
        """:param writers: `FencedWriters`, or what behaves the same.
        :param consumer: makes aiokafka's consumers, or what behaves the same.
        """
        self._writers = writers or FencedWriters(settings, "backstop-results", now_ms)
        self._new_consumer = consumer
        self._options = client_options(settings)
        self._topic = f"{settings.topic_prefix}results"
        self._source = source
        self._owned: frozenset[int] = frozenset()
        self._lanes: dict[int, _ResultsLane] = {}
        self._fences: dict[int, Fence] = {}
        """The last that the coordinator gave for each partition since the assignment."""
        self._opening: dict[int, asyncio.Lock] = {}

    def reassigned(self, owned: Collection[int]) -> None:
        """To be called after each assignment, with all partitions of this worker.

        Another worker may have published meanwhile, also to partitions that this one had before: tails are read again.
        """
        self._owned = frozenset(owned)
        self._lanes, self._fences = {}, {}

    async def stop(self) -> None:
        self.reassigned(())
        await self._writers.stop()

    async def publish(self, partition: int, results: Sequence[JobResult]) -> None:
        """See `streams.ports.Results`. Retries without limit while the broker is unavailable."""
        while True:
            if partition not in self._owned:  # It may be lost while this waits, and would be opened unconditionally.
                raise ResultsFencedError(f"this worker does not own partition {partition} of {self._topic}")
            try:
                lane = await self._lane(partition)
                await self._append(lane, partition, results)
            except FencedOffError as error:
                raise ResultsFencedError(f"partition {partition} of {self._topic} has a newer owner") from error
            except (KafkaError, TimeoutError) as error:
                # The append's outcome is unknown. A new lane reads the tail, which tells.
                log.warning("results not appended; opening the lane again", partition=partition, error=repr(error))
                await asyncio.sleep(RETRY_WAIT_S)
            else:
                return

    async def _append(self, lane: _ResultsLane, partition: int, results: Sequence[JobResult]) -> None:
        named = ((_identity(result.job_id, result.timings.submitted_at_ms), result) for result in results)
        fresh = {identity: result for identity, result in named if identity not in lane.known}
        metrics.RESULTS_KNOWN.inc(len(results) - len(fresh))
        if not fresh:
            return
        entries = [
            FencedRecord(result.key.encode(), encode(result), event_headers(result, self._source))
            for result in fresh.values()
        ]  # fmt: skip
        started_s = monotonic_s()
        failpoint("results.begun")
        try:
            await lane.writer.append(entries)
        except BaseException:
            if self._lanes.get(partition) is lane:
                del self._lanes[partition]
            raise
        failpoint("results.sent")
        metrics.RESULTS_APPEND_SECONDS.observe(monotonic_s() - started_s)
        for identity, result in fresh.items():
            lane.remember(identity)
            metrics.RESULTS.labels(outcome=result.outcome).inc()

    async def _lane(self, partition: int) -> _ResultsLane:
        lane = self._lanes.get(partition)
        return lane if lane is not None and not lane.writer.fence.over else await self._open(partition)

    async def _open(self, partition: int) -> _ResultsLane:
        async with self._opening.setdefault(partition, asyncio.Lock()):
            lanes = self._lanes
            known = lanes.get(partition)
            if known is not None and not known.writer.fence.over:
                return known
            fences = self._fences
            tp = TopicPartition(self._topic, partition)
            # A worker that lost the partition and does not know it is refused here, as another has fenced since.
            # A failed opening counts: the next one continues it.
            writer = await self._writers.open(tp, fences.get(partition), partial(fences.__setitem__, partition))
            failpoint("results.fenced")
            lane = _ResultsLane(writer)
            for identity in await self._read_tail(tp, await writer.end()):
                lane.remember(identity)
            lanes[partition] = lane  # Of an assignment that has ended meanwhile, if so: then it is lost.
            return lane

    async def _read_tail(self, tp: TopicPartition, end: int) -> list[str]:
        """Identities of the results before `end`. As `end` is beyond any open transaction, waits for its end."""
        consumer = self._new_consumer(
            **self._options, isolation_level="read_committed", enable_auto_commit=False, auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
        )  # fmt: skip
        async with running(consumer):
            consumer.assign([tp])
            beginning = (await consumer.beginning_offsets([tp]))[tp]
            consumer.seek(tp, max(beginning, end - TAIL_RECORDS_MAX))
            identities: list[str] = []
            async with asyncio.timeout(TAIL_READ_TIMEOUT_S):
                async for batches in read_to(consumer, {tp: end}):
                    failpoint("results.tail.reading")
                    identities += [found for raw in batches[tp] if (found := _identity_of(raw.value)) is not None]
            return identities


def _identity(job_id: str, submitted_at_ms: int) -> str:
    """The identity of a job's result. A job id may be reused once its job was forgotten: then the time differs."""
    return f"{job_id}@{submitted_at_ms}"


def _identity_of(value: bytes | None) -> str | None:
    """The identity of a record; None for a tombstone or a value that is not a result, which no result can repeat."""
    try:
        result = decode(RESULT, value)
    except PoisonError:
        return None
    return _identity(result.job_id, result.timings.submitted_at_ms)
