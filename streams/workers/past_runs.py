"""Recalls the run times of responses that were claimed and ended before this worker owned their partition.

They are read from the tail of the log, beside the folds and without delaying them. Otherwise a worker that starts would
poll by the fixed schedule, and permit no hedge, until enough responses had ended again. Only what is learned comes from
here. It may be lost, so no fold waits for a tail that can't be read, and a refold does not need it. The tail is read
again until a broker answers.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Final

import structlog

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.topic_reader import open_reader
from backstop.runtime.process.clock import NowMs
from backstop.runtime.records import Record
from backstop.runtime.settings import RuntimeSettings
from schemas.base import Message
from schemas.codec import PoisonError, decode
from schemas.responses import RESPONSE_FACT

log = structlog.get_logger()

RECORDS_MAX = 1_000
"""Records of each partition that are read: of some 200 responses."""

AGAIN_S = 10.0
"""Between two tries, while no broker answers."""

_MARKS: Final = tuple(b'"type":"response_%s"' % kind for kind in (b"claimed", b"observed", b"released"))
"""Facts of other types say nothing about a run time, and are not decoded."""

ReadTail = Callable[[Collection[int]], AsyncIterator[Sequence[Record]]]
"""Partitions of the responses log → the last `RECORDS_MAX` records of each, in batches of one partition."""

Recall = Callable[[Sequence[Message], int], None]
"""Takes the facts of one partition, in order, and the time at which the worker began to own it."""


async def read_tail(settings: RuntimeSettings, partitions: Collection[int]) -> AsyncIterator[Sequence[Record]]:
    """:raises BrokerUnavailableError: no broker answers."""
    async with open_reader(settings) as reader:
        ends = await reader.ends([("responses", partition) for partition in sorted(partitions)])
        begins = await reader.begins(ends)
        reader.seek({each: max(begins[each], end - RECORDS_MAX) for each, end in ends.items()})
        async for batch in reader.read(ends):
            yield batch


class PastRuns:
    """Reads the tails of partitions that the worker did not own before."""

    def __init__(self, read: ReadTail, recalls: Sequence[Recall], now_ms: NowMs, *, again_s: float = AGAIN_S) -> None:
        self._read = read
        self._again_s = again_s
        self._recalls = recalls
        self._now_ms = now_ms
        self._owned_since_ms: dict[int, int] = {}
        self._unread: set[int] = set()
        self._changed = asyncio.Event()

    def own(self, partitions: Collection[int]) -> None:
        """The worker owns these partitions from now on."""
        now_ms, before = self._now_ms(), self._owned_since_ms
        self._owned_since_ms = {each: before.get(each, now_ms) for each in partitions}
        self._unread = (self._unread & set(partitions)) | (set(partitions) - before.keys())
        self._changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                changed = asyncio.create_task(self._changed.wait())
                again_s = self._again_s if self._unread else None
                await asyncio.wait({stopping, changed}, timeout=again_s, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                self._changed.clear()
                if self._unread and not stop.is_set():
                    await self._recall()
        finally:
            stopping.cancel()

    async def _recall(self) -> None:
        wanted, self._unread = self._unread, set()
        facts: dict[int, list[Message]] = {each: [] for each in wanted}
        try:
            async for batch in self._read(wanted):
                for record in batch:
                    fact = _fact(record)
                    if fact is not None:
                        facts[record.partition].append(fact)
                await asyncio.sleep(0)
        except BrokerUnavailableError as error:
            log.warning("past_runs_not_read", partitions=sorted(wanted), error=str(error))
            self._unread |= wanted & self._owned_since_ms.keys()
            return
        for partition in wanted & self._owned_since_ms.keys():
            for recall in self._recalls:
                recall(facts[partition], self._owned_since_ms[partition])
            await asyncio.sleep(0)


def _fact(record: Record) -> Message | None:
    if record.value is None or not any(mark in record.value for mark in _MARKS):
        return None
    try:
        return decode(RESPONSE_FACT, record.value)
    except PoisonError:
        return None  # The fold sets it aside.
