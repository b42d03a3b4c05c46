"""The publisher of `results`: a `read_committed` consumer sees each job's result once, also after a crash.

It needs both of these:
- A *fence*. Each partition has a transactional producer whose id names the partition. When the next owner opens one,
  the broker refuses the producers of former owners: a worker that was stopped, lost its partitions and woke up.
- The *tail*, read after the fence: the results at the end of the partition. After a crash between the commit here and
  the write of the row, the fold produces the same result again; the tail contains it, and it is skipped.

The tail must cover what one crash can repeat: the results of one batch (`BATCH_RECORDS_MAX` of the transport, 500) and
of the rows that are gathered (`GATHERED_ROWS_MAX` of the table, 500). It covers `TAIL_RECORDS_MAX` records.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced
from aiokafka.producer import sender

from backstop.runtime.errors import BackstopError
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.headers import event_headers
from backstop.runtime.kafka.lifetimes import running, started, stopped
from backstop.runtime.kafka.topic_reader import read_to
from backstop.runtime.process.clock import monotonic_s
from backstop.runtime.process.failpoints import failpoint
from backstop.runtime.record_sizes import RECORD_BYTES_MAX
from backstop.runtime.settings import RuntimeSettings
from schemas.codec import PoisonError, decode, encode
from schemas.results import RESULT, JobResult
from streams import metrics

log = structlog.get_logger()

TAIL_RECORDS_MAX = 5_000
TAIL_READ_TIMEOUT_S = 30.0
TRANSACTION_TIMEOUT_MS = 30_000
RETRY_WAIT_S = 0.5

# After a commit the coordinator writes markers, for 1 to 3 ms, and refuses the next transaction meanwhile (KAFKA-5477).
# aiokafka 0.14 would retry after 20 ms, which is a constant.
sender.BACKOFF_OVERRIDE = 0.002


class ResultsFencedError(BackstopError):
    """Another worker owns the partition. This process must end and acknowledge nothing."""


@dataclass(slots=True)
class _ResultsLane:
    producer: AIOKafkaProducer
    known: dict[str, None] = field(default_factory=dict)
    """Identities (`_identity`) of the results at the end of the partition, oldest first."""

    def remember(self, identity: str) -> None:
        self.known[identity] = None
        while len(self.known) > TAIL_RECORDS_MAX:
            del self.known[next(iter(self.known))]


class ResultsPublisher:
    """Has one producer and one tail per partition, opened at the first result after each assignment."""

    def __init__(
        self, settings: RuntimeSettings, source: str = "worker", *,
        producer: Callable[..., Any] = AIOKafkaProducer, consumer: Callable[..., Any] = AIOKafkaConsumer,
    ) -> None:  # fmt: skip
        """:param producer, consumer: make aiokafka's clients, or clients that behave the same."""
        self._new_producer = producer
        self._new_consumer = consumer
        self._settings = settings
        self._options = client_options(settings)
        self._topic = f"{settings.topic_prefix}results"
        self._source = source
        self._lanes: dict[int, _ResultsLane] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._opening: dict[int, asyncio.Lock] = {}

    def reassigned(self) -> None:
        """To be called after each assignment. Another worker may have published meanwhile: tails are read again."""
        for lane in self._lanes.values():
            task = asyncio.create_task(_close(lane))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._lanes = {}

    async def stop(self) -> None:
        self.reassigned()
        await asyncio.gather(*self._closing)

    async def publish(self, partition: int, results: Sequence[JobResult]) -> None:
        """See `streams.ports.Results`. Retries without limit while the broker is unavailable."""
        while True:
            try:
                lane = self._lanes.get(partition) or await self._open(partition)
                await self._commit(lane, partition, results)
            except ProducerFenced as error:
                raise ResultsFencedError(f"partition {partition} of {self._topic} has a newer owner") from error
            except (KafkaError, TimeoutError) as error:
                # The commit's outcome is unknown. A new lane reads the tail, which tells.
                log.warning("results not committed; opening the lane again", partition=partition, error=repr(error))
                await self._forget(partition)
                await asyncio.sleep(RETRY_WAIT_S)
            else:
                return

    async def _commit(self, lane: _ResultsLane, partition: int, results: Sequence[JobResult]) -> None:
        named = ((_identity(result.job_id, result.timings.submitted_at_ms), result) for result in results)
        fresh = {identity: result for identity, result in named if identity not in lane.known}
        metrics.RESULTS_KNOWN.inc(len(results) - len(fresh))
        if not fresh:
            return
        started_s = monotonic_s()
        await lane.producer.begin_transaction()
        failpoint("results.begun")
        waits = [
            await lane.producer.send(
                self._topic,
                value=encode(result),
                key=result.key.encode(),
                partition=partition,
                headers=event_headers(result, self._source),
            )
            for result in fresh.values()
        ]
        for wait in waits:
            await wait
        failpoint("results.sent")
        await lane.producer.commit_transaction()
        failpoint("results.committed")
        metrics.RESULTS_COMMIT_SECONDS.observe(monotonic_s() - started_s)
        for identity, result in fresh.items():
            lane.remember(identity)
            metrics.RESULTS.labels(outcome=result.outcome).inc()

    async def _open(self, partition: int) -> _ResultsLane:
        lock = self._opening.setdefault(partition, asyncio.Lock())
        async with lock:
            if partition in self._lanes:
                return self._lanes[partition]
            producer = self._new_producer(
                **self._options,
                client_id=f"backstop-results-{partition}",
                transactional_id=f"{self._topic}-{partition}",
                transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
                max_request_size=RECORD_BYTES_MAX,
                linger_ms=0,
            )
            lane = _ResultsLane(producer)
            try:
                await started(producer)  # The fence: from here on the broker refuses former owners.
                for identity in await self._read_tail(partition):
                    lane.remember(identity)
            except BaseException:
                await _close(lane)
                raise
            self._lanes[partition] = lane
            return lane

    async def _forget(self, partition: int) -> None:
        lane = self._lanes.pop(partition, None)
        if lane is not None:
            await _close(lane)

    async def _read_tail(self, partition: int) -> list[str]:
        tp = TopicPartition(self._topic, partition)
        consumer = self._new_consumer(
            **self._options, isolation_level="read_committed", enable_auto_commit=False, auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
        )  # fmt: skip
        async with running(consumer):
            consumer.assign([tp])
            end = (await consumer.end_offsets([tp]))[tp]
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


async def _close(lane: _ResultsLane) -> None:
    with suppress(KafkaError, TimeoutError, asyncio.CancelledError):
        await stopped(lane.producer)
