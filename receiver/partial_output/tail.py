"""The reader of the topic `partials`: without a group, as every process that serves listeners needs all of it.

It reads always, not only while somebody listens: then a listener that comes (or comes back) finds what was said before it came. It begins a few
minutes back, so that a process that has just started knows what the one before it knew.
"""

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from backstop.runtime.blob_folders import BlobFolders
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.fetch_pace import BUSY_WAIT_MS, FetchPace
from backstop.runtime.kafka.lifetimes import started, stopped
from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.logs import get_logger
from backstop.runtime.settings import RuntimeSettings
from receiver.partial_output.listeners import Live
from schemas.codec import decode
from schemas.partials import PARTIAL, PartialOutput

AGAIN_S = 1.0
POLL_MS = 200

log = get_logger("receiver.partial_output")


class PartialTail:
    """Gives each record to `live`. What it can't read it passes over and counts: nothing depends on it."""

    def __init__(
        self, settings: RuntimeSettings, live: Live, now_ms: NowMs, back_ms: int, folders: BlobFolders | None = None
    ) -> None:  # fmt: skip
        """`folders` is told what stands on `clock`: it costs no consumer of its own."""
        self._folders = folders
        self._clock = f"{settings.topic_prefix}clock"
        self._settings = settings
        self._topic = PartialOutput.topic
        self._live = live
        self._now_ms = now_ms
        self._back_ms = back_ms
        self._positions: dict[TopicPartition, int] = {}

    async def run(self) -> None:
        """Until cancelled. While the broker is away it tries again."""
        while True:
            try:
                await self._read()
            except Exception as error:  # whatever Kafka's client says, the doors go on without it
                log.warning("partials_not_read", error_type=type(error).__name__)
            await asyncio.sleep(AGAIN_S)

    async def _read(self) -> None:
        name = f"{self._settings.topic_prefix}{self._topic}"
        topics = [name] if self._folders is None else [name, self._clock]
        consumer = AIOKafkaConsumer(
            *topics, **client_options(self._settings), client_id="backstop-partials", group_id=None,
            enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=BUSY_WAIT_MS,
        )  # fmt: skip
        try:
            await started(consumer)
            ends = await self._seek(consumer, sorted(consumer.assignment()))
            pace = FetchPace()
            while True:
                if not self._live.caught_up:
                    self._live.caught_up = all([await consumer.position(each) >= end for each, end in ends.items()])
                records = await consumer.getmany(timeout_ms=POLL_MS)
                pace.saw(consumer, records=bool(records))
                for partition, batch in records.items():
                    for record in batch:
                        if self._folders is not None and partition.topic == self._clock:
                            self._folders.heard(record.value, record.timestamp)
                        else:
                            self._take_one(record.value)
                    self._positions[partition] = batch[-1].offset + 1
        finally:
            await stopped(consumer)

    async def _seek(self, consumer: Any, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """To where it was; else some minutes back; else to the end, where there is nothing as young as that. Returns the ends."""
        since_ms = self._now_ms() - self._back_ms
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
        ends = await consumer.end_offsets(partitions)
        for partition in partitions:
            back = found.get(partition)
            consumer.seek(partition, self._positions.get(partition, ends[partition] if back is None else back.offset))
        return dict(ends)

    def _take_one(self, value: bytes | None) -> None:
        try:
            self._live.take(decode(PARTIAL, value))
        except Exception as error:  # also what decodes and is odd all the same: the next record is another job's
            self._live.metrics.records.labels("unreadable").inc()
            log.debug("partial_unreadable", error_type=type(error).__name__)
        else:
            self._live.metrics.records.labels("taken").inc()
