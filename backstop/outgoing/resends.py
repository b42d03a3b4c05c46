"""Resends since a time: reads the results of that span again, and requests a delivery of each."""

from collections.abc import AsyncIterator
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from backstop.outgoing.deliveries import asked, event_of
from backstop.outgoing.endpoints import Endpoint
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.lifetimes import started, stopped
from backstop.runtime.settings import RuntimeSettings
from schemas.codec import PoisonError, decode
from schemas.deliveries import DeliveryAsked, ResendAsked
from schemas.results import RESULT, JobResult

POLL_MS = 500
RECORDS_MAX = 500
SLACK_MS = 3_600_000
"""Allowed gap between a record's timestamp (its writer's clock) and the end of its job (the broker's clock)."""


class Results(Protocol):
    def between(self, since_ms: int, until_ms: int) -> AsyncIterator[list[JobResult]]:
        """Results written in that span, in batches; each partition in its order.

        :raises BrokerUnavailableError: the broker became unavailable.
        """


def asked_of(results: list[JobResult], ask: ResendAsked, endpoint: Endpoint) -> list[DeliveryAsked]:
    """The deliveries to request for these results. Pure."""
    if endpoint.saved is None:
        return []
    return [
        asked(result, ask.endpoint_id, ask.until_ms)
        for result in results
        if result.tenant == ask.tenant
        and event_of(result.outcome) in endpoint.saved.event_types
        and ask.since_ms <= result.timings.finished_at_ms <= ask.until_ms
    ]


class ResultsReader:
    """Reads `results` without a group. Opens a consumer per call: resends are rare."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self._settings = settings

    async def between(self, since_ms: int, until_ms: int) -> AsyncIterator[list[JobResult]]:
        partitions = [
            TopicPartition(f"{self._settings.topic_prefix}results", number)
            for number in range(self._settings.partitions)
        ]
        consumer = AIOKafkaConsumer(
            **client_options(self._settings), client_id="backstop-outgoing-resend", enable_auto_commit=False,
            auto_offset_reset="earliest", isolation_level="read_committed",
        )  # fmt: skip
        try:
            await started(consumer)
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            found = await consumer.offsets_for_times(dict.fromkeys(partitions, max(0, since_ms - SLACK_MS)))
            for tp in partitions:
                at = found.get(tp)
                consumer.seek(tp, ends[tp] if at is None else at.offset)
            while behind := [tp for tp in partitions if await consumer.position(tp) < ends[tp]]:
                batches = await consumer.getmany(*behind, timeout_ms=POLL_MS, max_records=RECORDS_MAX)
                for records in batches.values():
                    yield [result for result in map(_result, records) if result is not None]
                for tp, records in batches.items():
                    if records and records[-1].timestamp > until_ms + SLACK_MS:
                        consumer.seek(tp, ends[tp])
        except (KafkaError, OSError) as error:
            raise BrokerUnavailableError(f"results can't be read again: {error!r}") from error
        finally:
            await stopped(consumer)


def _result(record: Any) -> JobResult | None:
    """None for a tombstone or an unreadable record: the group dead-lettered the latter when it first read it."""
    try:
        return decode(RESULT, record.value)
    except PoisonError:
        return None
