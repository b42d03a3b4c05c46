"""What a life holds of the world: publishers, results and commands, each with all that can go wrong between the two.

Every effect is enclosed by two calls of `Life.point`: a crash, a stop or a rebalance may come before the effect, or
after it and before its answer.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from aiokafka import TopicPartition

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.settings import RuntimeSettings
from schemas.base import Message
from schemas.codec import encode
from schemas.results import JobResult
from streams.results import ResultsPublisher
from streams.workers.command_group import CommandGroup
from streams.workers.commands import ReadBack, Taken
from tests.simulation.broker import Broker, Record
from tests.simulation.chaos import Life
from tests.simulation.clients import Consumer
from tests.simulation.results_clients import ResultsWriters, TailReader
from tests.simulation.wrong import Wrong

SETTINGS = RuntimeSettings(topic_prefix="")
IDLE_MS = 3_600_000
SLOW_OPENING_S = 3.0


class Publisher:
    """`backstop.runtime.kafka.publisher.Publisher` of one component."""

    def __init__(
        self, life: Life, broker: Broker, who: str, heard: Mapping[str, Callable[[Any], None]] | None = None
    ) -> None:
        """:param heard: by topic, what is told of acknowledged records."""
        self._life = life
        self._broker = broker
        self._heard = heard or {}
        self._before, self._after = f"{who}.publish", f"{who}.published"

    async def publish(self, messages: Sequence[Message], timeout_s: float | None = None) -> None:
        life, chaos = self._life, self._life.chaos
        await life.point(self._before)
        if chaos.refuses():
            count = chaos.random.randrange(len(messages) + 1) if messages else 0
            self._land(messages[:count])
            chaos.met.add("publish refused")
            raise BrokerUnavailableError("refused")
        if chaos.chance(chaos.mixture.late):
            chaos.met.add("publish landed late")
            chaos.loop.call_later(chaos.random.random() * 8, self._land, messages)
            raise BrokerUnavailableError("not acknowledged in time")
        if len(messages) > 1 and chaos.chance(0.2):
            half = len(messages) // 2
            landed = self._land(messages[:half])
            await life.point(self._before)
            landed += self._land(messages[half:])
        else:
            landed = self._land(messages)
        await life.point(self._after)
        if chaos.chance(chaos.mixture.lost_ack):
            chaos.met.add("ack lost")
            raise BrokerUnavailableError("not acknowledged in time")
        for record in landed:
            if record.topic in self._heard:
                self._heard[record.topic](record)

    def _land(self, messages: Sequence[Message]) -> list[Record]:
        at_ms = self._life.now_ms()
        return [
            self._broker.append(message.topic, message.key.encode(), encode(message), at_ms, message.id)
            for message in messages
        ]


class Results(ResultsPublisher):
    """The real one, and what a wrong system does in its stead."""

    def __init__(self, life: Life, broker: Broker, wrong: Wrong) -> None:
        super().__init__(
            SETTINGS,
            life.now_ms,
            writers=ResultsWriters(life, broker, fenced=not wrong.no_fence),
            consumer=partial(TailReader, life, broker),
        )
        self._met = life.chaos.met
        self._broker = broker
        self._wrong = wrong
        self._read_early: dict[int, list[str]] = {}

    async def _append(self, lane: Any, partition: int, results: Sequence[JobResult]) -> None:
        if any(f"{result.job_id}@{result.timings.submitted_at_ms}" in lane.known for result in results):
            self._met.add("result known from the tail")
        await super()._append(lane, partition, results)

    async def _open(self, partition: int) -> Any:
        if self._wrong.tail_before_fence:
            tp = TopicPartition("results", partition)
            self._read_early[partition] = await super()._read_tail(tp, self._broker.results[partition].end)
            await asyncio.sleep(SLOW_OPENING_S)
        return await super()._open(partition)

    async def _read_tail(self, tp: TopicPartition, end: int) -> list[str]:
        if self._wrong.tail_before_fence:
            return self._read_early[tp.partition]
        tail = await super()._read_tail(tp, end)
        return [] if self._wrong.no_tail else tail


class Commands(CommandGroup):
    """The real one, and what a wrong system does in its stead."""

    def __init__(self, life: Life, broker: Broker, topic: str, group: str, host: str, wrong: Wrong) -> None:
        super().__init__(SETTINGS, topic=topic, group=group, consumer=partial(Consumer, life, broker, host))
        self._life = life
        self._name = group
        self._wrong = wrong

    def nudge(self) -> None:
        """`stop` was set."""
        if self._group.joined:
            self._group._consumer.nudge()

    async def take(self, records_max: int, wait_ms: int) -> Taken:
        """Waits for longer than `wait_ms`: virtual time is full of idle workers."""
        del wait_ms
        handed = self._group.handed
        taken = await super().take(records_max, IDLE_MS)
        if self._group.handed > handed:
            self._life.chaos.met.add(f"{self._name} handed over")
        if self._wrong.polls_committed_early and self._name == "poller" and taken.by_partition:
            await super().commit(taken.epoch, taken.next_offsets)
        return taken

    async def commit(self, epoch: int, next_offsets: Mapping[int, int], notes: Mapping[int, str] | None = None) -> bool:
        if self._wrong.commits_after_post and self._name == "submitter":
            self._life.spawn(self._commit_later(epoch, dict(next_offsets)))
            return True
        return await super().commit(epoch, next_offsets, notes)

    async def _commit_later(self, epoch: int, next_offsets: dict[int, int]) -> None:
        await asyncio.sleep(0.5)
        await super().commit(epoch, next_offsets)

    async def read_back(self, partition: int, before_offset: int, since_ms: int, records_max: int) -> ReadBack:
        if self._wrong.forgets_commands:
            return ReadBack((), since_ms)
        return await super().read_back(partition, before_offset, since_ms, records_max)
