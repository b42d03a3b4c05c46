"""Backstop's two ends on Kafka as other services use them: write `requests`, read `results`.

For the command line and load tests. Services don't need this module: see `examples/kafka_upstream.py`.
"""

import asyncio
from collections.abc import AsyncIterator

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.lifetimes import broker_errors, started, stopped
from backstop.runtime.process.logs import get_logger
from backstop.runtime.settings import RuntimeSettings
from schemas.codec import PoisonError, canonical, decode
from schemas.requests import Cancel, Submit
from schemas.results import RESULT, JobResult

log = get_logger("backstop.dev.upstream")

POLL_MS = 200
FETCH_WAIT_MS = 10
"""The longest wait of a fetch. aiokafka asks for a partition again only after the fetch of the others has ended, so a
result may be late by this much.
"""

RESULTS_BATCH_MAX = 500


class RequestWriter:
    """Writes to `requests`. A `send` that returns has been acknowledged by all in-sync replicas."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self._settings = settings
        self._topic = f"{settings.topic_prefix}requests"
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        self._producer = await started(
            AIOKafkaProducer(
                **client_options(self._settings), client_id="backstop-upstream", enable_idempotence=True, acks="all"
            )
        )

    async def stop(self) -> None:
        if self._producer is not None:
            await stopped(self._producer)
            self._producer = None

    async def send(self, request: Submit | Cancel) -> None:
        """:raises BrokerUnavailableError: not acknowledged. The record may be in the log; sending it again is safe."""
        assert self._producer is not None, "start it first"
        assert request.job_id is not None, (
            "a request on Kafka needs its job id: there is no answer that could return one"
        )
        value = canonical(request.model_dump(mode="json", exclude_none=True))
        with broker_errors("not acknowledged by the broker"):
            await self._producer.send_and_wait(self._topic, value=value, key=request.job_id.encode())


class ResultReader:
    """Reads `results` as a `read_committed` consumer without a group, from the ends of the partitions, or from the
    beginning.
    """

    def __init__(self, settings: RuntimeSettings) -> None:
        self._settings = settings
        self._topic = f"{settings.topic_prefix}results"
        self._consumer: AIOKafkaConsumer | None = None

    async def start(self, *, from_beginning: bool = False) -> None:
        consumer = AIOKafkaConsumer(
            **client_options(self._settings),
            client_id="backstop-downstream",
            isolation_level="read_committed",
            enable_auto_commit=False,
            group_id=None,
            fetch_max_wait_ms=FETCH_WAIT_MS,
        )
        self._consumer = await started(consumer)
        partitions = [TopicPartition(self._topic, number) for number in range(self._settings.partitions)]
        self._consumer.assign(partitions)
        if from_beginning:
            await self._consumer.seek_to_beginning(*partitions)
        else:
            await self._consumer.seek_to_end(*partitions)

    async def stop(self) -> None:
        if self._consumer is not None:
            await stopped(self._consumer)
            self._consumer = None

    async def read(self) -> AsyncIterator[JobResult]:
        """Results as they arrive, without end; cancel to stop. Tombstones are skipped; an unreadable record is skipped
        with a warning.
        """
        assert self._consumer is not None, "start it first"
        while True:
            with broker_errors("results can't be read"):
                batches = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=RESULTS_BATCH_MAX)
            for records in batches.values():
                for record in records:
                    if record.value is None:
                        continue
                    try:
                        yield decode(RESULT, record.value)
                    except PoisonError as error:
                        log.warning("not_a_result", partition=record.partition, offset=record.offset, error=str(error))
            if not batches:
                await asyncio.sleep(0)
