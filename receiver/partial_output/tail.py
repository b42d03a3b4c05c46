"""Reads the topic `partials`, without a consumer group: each process that serves listeners needs all records.

It reads also while there are no listeners, so that a new or resuming listener finds earlier events. It starts a few
minutes back, so that a restarted process has the events that its predecessor had.
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
    """Hands each record to `live`. Unreadable records are counted and skipped: no job depends on them."""

    def __init__(
        self, settings: RuntimeSettings, live: Live, now_ms: NowMs, back_ms: int, folders: BlobFolders | None = None
    ) -> None:  # fmt: skip
        """`folders` gets the records of `clock`, which this consumer reads too, to save a second one."""
        self._folders = folders
        self._clock = f"{settings.topic_prefix}clock"
        self._settings = settings
        self._topic = PartialOutput.topic
        self._live = live
        self._now_ms = now_ms
        self._back_ms = back_ms
        self._positions: dict[TopicPartition, int] = {}

    async def run(self) -> None:
        """Read until cancelled. After an error it reconnects in `AGAIN_S`."""
        while True:
            try:
                await self._read()
            except Exception as error:  # any error of Kafka's client: the rest of the receiver works without it
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
        """Seek each partition to its last position, else `back_ms` back, else to its end if no record is as recent.
        Returns the end offsets.
        """
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
        except Exception as error:  # any error: one bad record must not stop the others
            self._live.metrics.records.labels("unreadable").inc()
            log.debug("partial_unreadable", error_type=type(error).__name__)
        else:
            self._live.metrics.records.labels("taken").inc()
