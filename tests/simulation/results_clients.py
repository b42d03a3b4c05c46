"""What `ResultsPublisher` needs of the broker: writers with fences, and a reader of the tail, on the model broker.

A batch may be refused, or appended and not acknowledged; it may land seconds after its writer gave it up, or after its
process was killed. Repeats of one batch, which the broker recognises, are not modelled (see `tests/kafka`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaTimeoutError

from backstop.runtime.kafka.fences import Begun, Fence, FencedOffError, FencedRecord
from tests.simulation.broker import Broker, FencedLog
from tests.simulation.chaos import Life

LATE_S_MAX = 8.0


class ResultsWriters:
    """`backstop.runtime.kafka.fences.FencedWriters`."""

    def __init__(self, life: Life, broker: Broker, *, fenced: bool) -> None:
        """:param fenced: False: each writer has a fence id of its own, so that no epoch refuses it."""
        self._life = life
        self._broker = broker
        self._fenced = fenced

    async def open(self, tp: TopicPartition, former: Fence | None, begun: Begun) -> "ResultsWriter":
        log = self._broker.results[tp.partition]
        await self._life.point("results.init")
        epoch = log.init(None if former is None or not self._fenced else former.epoch)
        if epoch is None:
            raise _refused(self._life)
        fence = Fence(0, epoch, math.inf)
        begun(fence)
        await self._life.point("results.fence")
        if self._fenced and not log.mark(epoch):
            raise _refused(self._life)
        return ResultsWriter(self._life, log, fence, fenced=self._fenced)

    async def stop(self) -> None:
        """Nothing is held."""


class ResultsWriter:
    def __init__(self, life: Life, log: FencedLog, fence: Fence, *, fenced: bool) -> None:
        self.fence = fence
        self._life = life
        self._log = log
        self._fenced = fenced

    async def end(self) -> int:
        return self._log.end

    async def append(self, entries: Sequence[FencedRecord]) -> None:
        chaos = self._life.chaos
        await self._life.point("results.send")
        if chaos.refuses():
            chaos.met.add("results not appended")
            raise KafkaTimeoutError
        if chaos.chance(chaos.mixture.late):
            chaos.met.add("results sent late")
            chaos.loop.call_later(chaos.random.random() * LATE_S_MAX, self._land_late, entries)
            raise KafkaTimeoutError
        if not self._land(entries):
            raise _refused(self._life)
        await self._life.point("results.sent")
        if chaos.chance(chaos.mixture.lost_ack):
            chaos.met.add("results appended, and not said")
            raise KafkaTimeoutError

    def _land_late(self, entries: Sequence[FencedRecord]) -> None:
        self._life.chaos.met.add("late results taken" if self._land(entries) else "late results refused")

    def _land(self, entries: Sequence[FencedRecord]) -> bool:
        epoch = self.fence.epoch if self._fenced else max(self.fence.epoch, self._log.marked)
        return self._log.append(epoch, [(entry.key.decode(), entry.value) for entry in entries])


def _refused(life: Life) -> FencedOffError:
    life.chaos.met.add("fenced")
    return FencedOffError("results has a newer writer")


@dataclass(frozen=True, slots=True)
class TailRecord:
    offset: int
    value: bytes


class TailReader:
    """An `AIOKafkaConsumer` that reads `results`."""

    def __init__(self, life: Life, broker: Broker, **_options: Any) -> None:
        self._life = life
        self._broker = broker
        self._position = 0
        self._log = FencedLog()

    async def start(self) -> None:
        await self._life.point("results.tail")

    async def stop(self) -> None:
        """Nothing is held."""

    def assign(self, tps: Sequence[TopicPartition]) -> None:
        self._log = self._broker.results[tps[0].partition]

    async def beginning_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, 0)

    def seek(self, _tp: TopicPartition, offset: int) -> None:
        self._position = offset

    async def position(self, _tp: TopicPartition) -> int:
        return self._position

    async def getmany(self, tp: TopicPartition, **_: Any) -> dict[TopicPartition, list[TailRecord]]:
        found = [TailRecord(offset, value) for offset, _, value in self._log.records if offset >= self._position]
        self._position = self._log.end
        return {tp: found}
