"""Telling a log what a call brought: again and again, until the broker has acknowledged it."""

import asyncio
from collections.abc import Sequence

import structlog

from runtime.errors import BrokerUnavailableError
from runtime.publisher import Publisher
from schemas.base import Message
from streams.workers.metrics import WorkerMetrics

log = structlog.get_logger()

RETRY_S = 0.2
RETRY_S_MAX = 5.0


async def report(publisher: Publisher, messages: Sequence[Message], metrics: WorkerMetrics, worker: str) -> None:
    """Return when every message is acknowledged. While the broker is away this waits, in its slot: nothing piles up behind it.

    Repeats are harmless, as ids are derived. Ended from outside only (a stop that has waited long enough).
    """
    wait_s = RETRY_S
    while True:
        try:
            await publisher.publish(messages)
        except BrokerUnavailableError as error:
            metrics.report_retried(worker)
            log.warning("report_not_acknowledged", worker=worker, message_id=messages[0].id, error=str(error))
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_S_MAX)
        else:
            return
