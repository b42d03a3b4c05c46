"""Resends since a time: the results of that span are read again, and each is asked for anew."""

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
"""How far a record's stamp, which is its writer's own clock, may be from the time at which the job ended, which is the broker's."""


class Results(Protocol):
    def between(self, since_ms: int, until_ms: int) -> AsyncIterator[list[JobResult]]:
        """Those that were written then, in batches, each partition in its order.

        :raises BrokerUnavailableError: the broker went away meanwhile.
        """


def asked_of(results: list[JobResult], ask: ResendAsked, endpoint: Endpoint) -> list[DeliveryAsked]:
    """What of these is to be sent again. Pure."""
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
    """Reads `results` without a group. A consumer for each call: resends are rare."""

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
    """None for a tombstone, and for what is no result: the group has set that aside when it came."""
    try:
        return decode(RESULT, record.value)
    except PoisonError:
        return None
