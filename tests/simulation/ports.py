"""What a life holds of the world: publishers, results and commands, each with all that can go wrong between the two.

Every way out passes `Life.point` before and after its effect: so a crash, a stop or a rebalance may come before anything
happened, or after it happened and before anybody heard.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from runtime.errors import BackstopError, BrokerUnavailableError
from runtime.settings import RuntimeSettings
from schemas.base import Message
from schemas.codec import encode
from schemas.results import JobResult
from streams.workers.commands import ReadBack, Taken
from streams.workers.group import CommandGroup
from tests.simulation.broker import Broker
from tests.simulation.chaos import Life
from tests.simulation.clients import Consumer
from tests.simulation.wrong import Wrong

TAIL_RECORDS_MAX = 5_000
RETRY_WAIT_S = 0.5
SETTINGS = RuntimeSettings(topic_prefix="")


class FencedOffError(BackstopError):
    """Another worker owns the partition of `results`."""


class NotCommittedError(Exception):
    """The broker did not answer a commit; whether it took effect is not known."""


class Publisher:
    """`runtime.publisher.Publisher` of one component."""

    def __init__(self, life: Life, broker: Broker, who: str) -> None:
        self._life = life
        self._broker = broker
        self._before, self._after = f"{who}.publish", f"{who}.published"

    async def publish(self, messages: Sequence[Message], timeout_s: float | None = None) -> None:
        life, chaos = self._life, self._life.chaos
        await life.point(self._before)
        if chaos.refuses():
            landed = chaos.random.randrange(len(messages) + 1) if messages else 0
            self._land(messages[:landed])
            chaos.met.add("publish refused")
            raise BrokerUnavailableError("refused")
        if chaos.chance(chaos.mixture.late):
            chaos.met.add("publish landed late")
            chaos.loop.call_later(chaos.random.random() * 8, self._land, messages)
            raise BrokerUnavailableError("not acknowledged in time")
        if len(messages) > 1 and chaos.chance(0.2):
            half = len(messages) // 2
            self._land(messages[:half])
            await life.point(self._before)
            self._land(messages[half:])
        else:
            self._land(messages)
        await life.point(self._after)
        if chaos.chance(chaos.mixture.lost_ack):
            chaos.met.add("ack lost")
            raise BrokerUnavailableError("not acknowledged in time")

    def _land(self, messages: Sequence[Message]) -> None:
        at_ms = self._life.now_ms()
        for message in messages:
            self._broker.append(message.topic, message.key.encode(), encode(message), at_ms, message.id)


class Results:
    """`streams.results.ResultsPublisher`, on the model broker: the same steps in the same order."""

    def __init__(self, life: Life, broker: Broker, wrong: Wrong) -> None:
        self._life = life
        self._broker = broker
        self._wrong = wrong
        self._lanes: dict[int, tuple[int, dict[str, None]]] = {}

    def reassigned(self) -> None:
        self._lanes = {}

    async def publish(self, partition: int, results: Sequence[JobResult]) -> None:
        while True:
            try:
                lane = self._lanes.get(partition) or await self._open(partition)
                await self._commit(partition, lane, results)
            except NotCommittedError:
                self._lanes.pop(partition, None)
                await asyncio.sleep(RETRY_WAIT_S)
            else:
                return

    async def _open(self, partition: int) -> tuple[int, dict[str, None]]:
        log = self._broker.results[partition]
        await self._life.point("results.init")
        epoch = max(1, log.epoch) if self._wrong.no_fence else log.init()
        log.epoch = epoch
        await self._life.point("results.tail")
        known = {} if self._wrong.no_tail else {job_id: None for _, job_id, _ in log.committed()[-TAIL_RECORDS_MAX:]}
        lane = self._lanes[partition] = (epoch, known)
        return lane

    async def _commit(self, partition: int, lane: tuple[int, dict[str, None]], results: Sequence[JobResult]) -> None:
        epoch, known = lane
        log, chaos = self._broker.results[partition], self._life.chaos
        fresh = {result.job_id: result for result in results if result.job_id not in known}
        if len(fresh) < len(results):
            chaos.met.add("result known from the tail")
        if not fresh:
            return
        for result in fresh.values():
            await self._life.point("results.send")
            if not log.send(epoch, result.job_id, encode(result)):
                chaos.met.add("fenced")
                raise FencedOffError(f"partition {partition}")
        await self._life.point("results.commit")
        if chaos.refuses():
            chaos.met.add("results not committed")
            raise NotCommittedError
        if not log.commit(epoch):
            chaos.met.add("fenced")
            raise FencedOffError(f"partition {partition}")
        await self._life.point("results.committed")
        if chaos.chance(chaos.mixture.lost_ack):
            chaos.met.add("results committed, and not said")
            raise NotCommittedError
        for job_id in fresh:
            known[job_id] = None


class Commands(CommandGroup):
    """The real one, and what a wrong system does in its stead."""

    def __init__(self, life: Life, broker: Broker, topic: str, group: str, host: str, wrong: Wrong) -> None:
        super().__init__(SETTINGS, topic=topic, group=group, consumer=partial(Consumer, life, broker, host))
        self._life = life
        self._name = group
        self._wrong = wrong

    def nudge(self) -> None:
        """`stop` was set."""
        if self._consumer is not None:
            self._consumer.nudge()

    async def take(self, records_max: int, wait_ms: int) -> Taken:
        taken = await super().take(records_max, wait_ms)
        if self._wrong.looks_committed_early and self._name == "caller" and taken.by_partition:
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
