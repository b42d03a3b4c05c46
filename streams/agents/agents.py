"""The agents: the two folds, and one intake for each topic of requests.

An agent makes no decisions. An exception in a handler ends the process before the records are acknowledged.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from backstop.runtime.blobs import Bodies
from backstop.runtime.claims import Claims
from backstop.runtime.kafka.acknowledged import publish
from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.failpoints import failpoint
from backstop.runtime.process.logs import get_logger
from backstop.runtime.records import Record
from backstop.runtime.traces import traceparent_of_record, within_trace
from schemas.base import DEFAULT_TENANT, Message
from schemas.dead_letters import DeadLetter
from streams import metrics
from streams.agents.fold_shell import FoldShell
from streams.agents.intake import take_request
from streams.faust.partitions import each_partition
from streams.policy.limits import NO_LIMITS, LimitRules
from streams.policy.prices import NO_PRICES, Prices
from streams.submission import SubmissionPolicy

STORE_AGAIN_S = 0.5
AT_ONCE = 8
"""Records of a batch whose claims and blobs are written at the same time: about as many as there are threads."""

STORE_TRIES_MAX = 60
"""Half a minute in all: time for a network file system to fail over."""

log = get_logger("streams.agents")


def add_fold_agent(app: Any, topic: str, name: str, shell: FoldShell) -> None:
    """Add an agent that gives each batch of `topic` to `shell`; batches of different partitions overlap."""

    async def fold(event: Any) -> None:
        await shell.take(event.message.partition, event.value)

    async def agent(stream: Any) -> None:
        await each_partition(stream, fold)

    app.agent(app.topic(topic), name=name)(agent)


class Intake:
    """Turns requests of upstream services into facts of their jobs. All records of one intake belong to one tenant."""

    def __init__(
        self, *, publisher: Publisher, bodies: Bodies, policy: SubmissionPolicy, now_ms: NowMs,
        tenant: str = DEFAULT_TENANT, claims: Claims | None = None, limits: LimitRules = NO_LIMITS,
        prices: Prices = NO_PRICES,
    ) -> None:  # fmt: skip
        self._tenant = tenant
        self._limits = limits
        self._prices = prices
        self._claims = claims
        self._publisher = publisher
        self._bodies = bodies
        self._policy = policy
        self._now_ms = now_ms

    async def take(self, records: Sequence[Record]) -> None:
        """Return when `records` may be acknowledged: their facts and dead letters are acknowledged by the broker."""
        messages: list[Message] = []
        for start in range(0, len(records), AT_ONCE):
            # Threads write claims and blobs. One at a time, each record of the batch would wait a turn of the loop.
            taken = await asyncio.gather(*(self._taken(record) for record in records[start : start + AT_ONCE]))
            messages += [message for of_record in taken for message in of_record]
        await publish(self._publisher, messages, "intake")
        failpoint("intake.jobs.acked")
        for message in messages:
            if isinstance(message, DeadLetter):
                metrics.DEAD_LETTERS.labels(topic="requests", reason=message.reason).inc()

    async def _taken(self, record: Record) -> Sequence[Message]:
        """The messages for one record. While the blob store fails, wait and try again.

        :raises OSError: the blob store failed `STORE_TRIES_MAX` times.
        """
        for tries in range(1, STORE_TRIES_MAX + 1):
            try:
                with within_trace(traceparent_of_record(record.headers)):
                    return await take_request(
                        record, tenant=self._tenant, now_ms=self._now_ms(), policy=self._policy,
                        bodies=self._bodies, claims=self._claims, limits=self._limits, prices=self._prices,
                    )  # fmt: skip
            except OSError as error:
                metrics.BLOBS_NOT_STORED.inc()
                log.error("blob_not_stored", offset=record.offset, errno=error.errno, tries=tries)
                if tries == STORE_TRIES_MAX:
                    raise
                await asyncio.sleep(STORE_AGAIN_S)
        raise AssertionError


def add_intake_agent(app: Any, topic: str, intake: Intake, name: str = "intake") -> None:
    async def take(event: Any) -> None:
        await intake.take(event.value)

    async def agent(stream: Any) -> None:
        await each_partition(stream, take)

    app.agent(app.topic(topic), name=name)(agent)
