"""One pattern for both folds: fold in memory → outputs acknowledged → rows taken → records acknowledged. The table
writes its rows before the offset of their records is committed.

A crash between any two steps repeats outputs (same ids, same bytes) and never loses one. The submitter and the
publisher of results may not act twice, so both remember what they did.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import structlog

from backstop.runtime.errors import InvariantError
from backstop.runtime.kafka.acknowledged import publish
from backstop.runtime.kafka.dead_letters import dead_letter
from backstop.runtime.kafka.publisher import Publisher
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.failpoints import Failpoint, failpoint
from schemas.base import Message
from schemas.results import JobResult
from streams import metrics
from streams.fold.batch import Fold, Folded, LogRecord, fold_batch
from streams.ports import Results, Rows
from streams.scheduler.due import DueIndex

log = structlog.get_logger()

WEBHOOK_MARK = b'"type":"webhook_received"'
"""How `schemas.codec.encode` writes the type of a webhook fact."""

POISON_RUN_MAX = 100
"""Unreadable records in a row on a log that only Backstop writes: a sign of a bad deploy, not of bad records."""


class FoldRecord(LogRecord, Protocol):
    """A Kafka record with its origin, as `streams.faust.consumer` delivers it."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def timestamp_ms(self) -> int: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


Taken = Callable[[int, Folded[Any]], None]
"""Called with a partition and each of its batches, when its outputs are acknowledged."""


def untaken(_partition: int, _folded: Folded[Any]) -> None:
    """No part asks for the batches."""


class Grants(Protocol):
    """Decides in the turn of a batch what its jobs need not wait for (`streams.scheduler.grants`)."""

    def of(self, partition: int, records: Sequence[Any], folded: Folded[Any]) -> Sequence[Message]:
        """Commands and facts to be written with the outputs of `folded`. The keys of facts have no due time then."""
        ...

    def needed(self, outputs: Sequence[Message]) -> Sequence[Message]:
        """The outputs of a batch without the commands that were written before, beside the fact that makes them."""
        ...

    def folded(self, partition: int, records: Sequence[Any], folded: Folded[Any]) -> None:
        """The outputs of a batch are acknowledged."""
        ...


class NoGrants:
    """For a fold that grants nothing."""

    def of(self, partition: int, records: Sequence[Any], folded: Folded[Any]) -> Sequence[Message]:  # noqa: ARG002
        return ()

    def needed(self, outputs: Sequence[Message]) -> Sequence[Message]:
        return outputs

    def folded(self, partition: int, records: Sequence[Any], folded: Folded[Any]) -> None:
        pass


NO_GRANTS = NoGrants()


def both(first: Taken, second: Taken) -> Taken:
    """Two parts ask for the batches."""

    def taken(partition: int, folded: Folded[Any]) -> None:
        first(partition, folded)
        second(partition, folded)

    return taken


class FoldShell:
    """Folds batches of one log. Batches of one partition must not overlap; those of different partitions may."""

    def __init__(
        self, fold: Fold[Any], *, rows: Rows, publisher: Publisher, results: Results, index: DueIndex, now_ms: NowMs,
        heard: Callable[[], None] | None = None, taken: Callable[[int, Folded[Any]], None] = untaken,
    ) -> None:  # fmt: skip
        """:param heard: called for each batch with a webhook: the poll schedule depends on whether webhooks come.
        :param taken: called with each batch when its outputs are acknowledged.
        """
        self.grants: Grants = NO_GRANTS
        """To be set before the first batch."""
        self._taken = taken
        self._fold = fold
        self._rows = rows
        self._publisher = publisher
        self._results = results
        self._index = index
        self._now_ms = now_ms
        self._heard = heard
        self._poison_run: dict[int, int] = {}

    async def take(self, partition: int, records: Sequence[FoldRecord]) -> None:
        """Return when `records` may be acknowledged.

        :raises Exception: publishing or writing failed; the caller must end the process and acknowledge nothing.
        """
        folded = fold_batch(self._fold, lambda key: self._rows.get(partition, key), records)
        self._point("parsed")
        self._count(partition, records, folded)
        if self._heard is not None and any(WEBHOOK_MARK in (record.value or b"") for record in records):
            self._heard()
        granted = self.grants.of(partition, records, folded)
        await self._publish(partition, folded, granted)
        self.grants.folded(partition, records, folded)
        if folded.rows:
            await self._rows.put(partition, folded.rows)
        self._taken(partition, folded)
        in_the_log = {fact.key.encode() for fact in granted}
        for key, due_ms in folded.dues_ms.items():
            self._index.put(partition, key, None if key in in_the_log else due_ms)

    async def _publish(
        self, partition: int, folded: Folded[FoldRecord], granted: Sequence[Message] = ()
    ) -> None:  # fmt: skip
        results = [output for output in folded.outputs if isinstance(output, JobResult)]
        outputs = [output for output in folded.outputs if not isinstance(output, JobResult)]
        others: list[Message] = [*granted, *self.grants.needed(outputs)]
        now_ms = self._now_ms()
        others += [dead_letter(record, error, self._fold.name, now_ms) for record, error in folded.poisons]
        waits: list[Awaitable[None]] = []
        if others:
            waits.append(publish(self._publisher, others, self._fold.name))
        if results:
            waits.append(self._results.publish(partition, results))
        self._point("outputs.sent")
        await asyncio.gather(*waits)
        self._point("outputs.acked")
        for result in results:
            unknown = sum(brief.outcome == "unknown" or brief.adopted for brief in result.attempts)
            metrics.ATTEMPTS_UNKNOWN.inc(unknown)

    def _count(self, partition: int, records: Sequence[FoldRecord], folded: Folded[FoldRecord]) -> None:
        name = self._fold.topic
        metrics.FACTS.labels(log=name).inc(folded.taken)
        metrics.REPEATS.labels(log=name).inc(folded.repeats)
        for reason, count in folded.ignored.items():
            metrics.IGNORED.labels(log=name, reason=reason).inc(count)
        metrics.FOLD_LAG_SECONDS.labels(log=name).set(max(0, self._now_ms() - records[0].timestamp_ms) / 1000)
        for record, error in folded.poisons:
            metrics.DEAD_LETTERS.labels(topic=name, reason=error.reason).inc()
            log.warning(
                "record set aside", topic=record.topic, partition=record.partition, offset=record.offset,
                reason=error.reason, detail=error.detail,
            )  # fmt: skip
        all_poison = folded.last_poisoned_run == len(records)
        run = folded.last_poisoned_run + (self._poison_run.get(partition, 0) if all_poison else 0)
        self._poison_run[partition] = run
        if run >= POISON_RUN_MAX:
            raise InvariantError(
                f"{run} records of {name} in a row can't be read; check that this release is not older than the log"
            )

    def _point(self, place: str) -> None:
        failpoint(f"{self._fold.name}.{place}")  # type: ignore[arg-type]  # The Literal has the names of both folds.


__all__ = ["Failpoint", "FoldRecord", "FoldShell", "untaken"]
