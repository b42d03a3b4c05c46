"""Resends since a time: reads the results of that span again, and requests a delivery of each."""

from collections.abc import AsyncIterator
from typing import Protocol

from backstop.outgoing.deliveries import asked, event_of
from backstop.outgoing.endpoints import Endpoint
from backstop.runtime.kafka.topic_reader import open_reader
from backstop.runtime.records import Record
from backstop.runtime.settings import RuntimeSettings
from schemas.codec import PoisonError, decode
from schemas.deliveries import DeliveryAsked, ResendAsked
from schemas.results import RESULT, JobResult

SLACK_MS = 3_600_000
"""Allowed gap between a record's timestamp (its writer's clock) and the end of its job (the broker's clock)."""


class PastResults(Protocol):
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
    """Reads `results` without a group. Opens a reader per call: resends are rare."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self._settings = settings

    async def between(self, since_ms: int, until_ms: int) -> AsyncIterator[list[JobResult]]:
        async with open_reader(self._settings) as reader:
            partitions = reader.partitions(JobResult.topic)
            await reader.seek_time(partitions, since_ms - SLACK_MS)
            async for records in reader.read(await reader.offsets_at(partitions, until_ms + SLACK_MS + 1)):
                yield [result for result in map(_result, records) if result is not None]


def _result(record: Record) -> JobResult | None:
    """None for a tombstone or an unreadable record: the group dead-lettered the latter when it first read it."""
    try:
        return decode(RESULT, record.value)
    except PoisonError:
        return None
