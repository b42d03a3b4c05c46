"""A member of a consumer group that takes records of its own process from memory (`streams.workers.hand_over`)."""

# This module works on private parts of aiokafka 0.14, which is pinned: its fetcher's waiters and its positions.
# ruff: noqa: SLF001

import asyncio
from contextlib import suppress
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError

from backstop.runtime.kafka.consumer_group import ConsumerGroup, GroupRecords
from backstop.runtime.kafka.fetch_wait import FETCH_GAP_MS, HOLD_MS, GatheringPace, records_come, unpaused
from backstop.runtime.records import Partition, Record, record_of
from backstop.runtime.settings import RuntimeSettings
from streams.workers.hand_over import HandOver


class HandedGroup(ConsumerGroup):
    """A member that reads one topic."""

    def __init__(self, settings: RuntimeSettings, *, topic: str, **options: Any) -> None:
        super().__init__(settings, topics=[topic], pace=GatheringPace(FETCH_GAP_MS, HOLD_MS, unpaused), **options)
        self._topic = topic
        self._hand_over = HandOver()
        self._paused: set[int] = set()
        self.handed = 0
        """How many records were taken from memory. For checks."""

    async def on_partitions_assigned(self, assigned: Any) -> None:
        await super().on_partitions_assigned(assigned)
        self._hand_over.begin(number for _, number in self._partitions)
        self._paused = set()

    def landed(self, record: Record) -> None:
        """A record of this process is acknowledged. Those of each partition come in order."""
        if self._open and self._hand_over.landed(record):
            fetcher = self._live()._fetcher
            for waiter in list(fetcher._fetch_waiters if fetcher is not None else ()):
                fetcher._notify(waiter)

    async def take(self, records_max: int, wait_ms: int) -> GroupRecords:
        epoch, found = await self._next(records_max)
        if not found:
            await self._some(wait_ms / 1_000)
            epoch, found = await self._next(records_max)
        return GroupRecords(epoch, found)

    async def _next(self, records_max: int) -> tuple[int, dict[Partition, list[Record]]]:
        """What can be taken now, and the assignment that it belongs to."""
        consumer = self._live()
        batches = await consumer.getmany(timeout_ms=0, max_records=records_max)
        found: dict[Partition, list[Record]] = {}
        if self._open:  # Else a rebalance is under way: the next owner reads these records again.
            found = {self._from(tp): [record_of(raw) for raw in raws] for tp, raws in batches.items()}
            room = records_max - sum(map(len, found.values()))
            for partition, records in self._handed(consumer, room).items():
                found[partition] = [*found.get(partition, ()), *records]
            self._pause(consumer)
        self._fetch_wait.saw(consumer, records=bool(found))
        return self._epoch, found

    async def _some(self, within_s: float) -> None:
        """Return when records have come, by a fetch or by `landed`; when a partition is not quiet any more; or after
        `within_s`.
        """
        consumer = self._live()
        left_ms = self._hand_over.quiet(_now_ms()).values()
        within_s = max(0.0, min(within_s, *(each / 1_000 for each in left_ms))) if left_ms else within_s
        fetcher = consumer._fetcher
        if fetcher is None:
            await asyncio.sleep(within_s)
        else:
            await records_come(fetcher, within_s)

    def _handed(self, consumer: Any, room: int) -> dict[Partition, list[Record]]:
        """The records that come next from memory; the consumer's positions are moved past them."""
        found: dict[Partition, list[Record]] = {}
        taken = self._hand_over.take(lambda number: _position(consumer, self._at(number)), room, _now_ms())
        for number, records in taken.items():
            with suppress(IllegalStateError):  # The partition moves away: its next owner reads these records.
                consumer.seek(self._at(number), records[-1].offset + 1)
                found[self._topic, number] = records
                self.handed += len(records)
        return found

    def _pause(self, consumer: Any) -> None:
        """Fetch no partition that lives on records of this process."""
        quiet = self._hand_over.quiet(_now_ms()).keys()
        for number in self._paused ^ quiet:
            with suppress(IllegalStateError):
                (consumer.pause if number in quiet else consumer.resume)(self._at(number))
        self._paused = set(quiet)

    def _at(self, number: int) -> TopicPartition:
        return self._to((self._topic, number))


def _position(consumer: Any, tp: TopicPartition) -> int | None:
    """The offset of the next record that the consumer takes; None before it knows."""
    subscription = consumer._subscription.subscription
    assignment = None if subscription is None else subscription.assignment
    if assignment is None or not assignment.active or tp not in assignment.tps:
        return None
    state = assignment.state_value(tp)
    return int(state.position) if state.has_valid_position else None


def _now_ms() -> float:
    return asyncio.get_running_loop().time() * 1_000
