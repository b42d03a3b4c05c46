"""What a life holds of the world: publishers, results and commands, each with all that can go wrong between the two.

Every way out passes `Life.point` before and after its effect: so a crash, a stop or a rebalance may come before anything
happened, or after it happened and before anybody heard.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from runtime.errors import BackstopError, BrokerUnavailableError
from schemas.base import Message
from schemas.codec import encode
from schemas.results import JobResult
from streams.workers.commands import ReadBack, Taken
from tests.simulation.broker import Broker, Group, Member, Record
from tests.simulation.chaos import Life
from tests.simulation.wrong import Wrong

TAIL_RECORDS_MAX = 5_000
RETRY_WAIT_S = 0.5


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


class Commands:
    """`streams.workers.commands.Commands`: the steps of `streams.workers.group.CommandGroup`."""

    def __init__(self, life: Life, broker: Broker, topic: str, group: str, host: str, wrong: Wrong) -> None:
        self._life = life
        self._broker = broker
        self._topic = topic
        self._name = group
        self._group: Group = broker.groups[group]
        self._member = Member(life, host)
        self._wrong = wrong
        self._epoch = 0
        self._open = False
        self._generation = -1
        self._positions: dict[int, int] = {}
        self._commit_lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._watched = [log.watchers for log in broker.of_topic(topic)]
        self._stop = asyncio.Event()

    @property
    def epoch(self) -> int:
        return self._epoch

    async def start(self, stop: asyncio.Event) -> None:
        self._stop = stop
        for watchers in self._watched:
            watchers.append(self._wake)
        self._life.spawn(self._belong())

    async def stop(self) -> None:
        self._open = False
        for watchers in self._watched:
            if self._wake in watchers:
                watchers.remove(self._wake)
        if not self._life.dead:
            self._group.leave(self._member)

    def nudge(self) -> None:
        """`stop` was set."""
        self._wake.set()

    async def _belong(self) -> None:
        """The coordinator's side of the client: joins, gives up, joins again."""
        member, group = self._member, self._group
        while not self._stop.is_set():
            if not group.holds(member):
                member = self._member = Member(self._life, member.host)
            await group.join(member)
            if not group.holds(member):
                continue
            self._positions = {p: group.committed.get((self._topic, p), 0) for p in member.partitions}
            self._epoch += 1
            self._generation = group.generation
            self._open = True
            self._wake.set()
            await member.moving.wait()
            self._open = False
            async with self._commit_lock:
                pass

    async def take(self, records_max: int, wait_ms: int) -> Taken:
        """Waits for longer than `wait_ms`: virtual time is full of idle workers. It returns where anything has happened."""
        await self._life.point(f"{self._name}.take")
        batch = self._read(records_max)
        if batch or self._stop.is_set():
            return Taken(self._epoch, batch)
        epoch = self._epoch
        self._wake.clear()
        while not self._stop.is_set() and epoch == self._epoch and not (batch := self._read(records_max)):
            await self._wake.wait()
            self._wake.clear()
        taken = Taken(self._epoch, batch)
        if self._wrong.looks_committed_early and self._name == "caller":
            self._group.commit(self._member, {(self._topic, p): at for p, at in taken.next_offsets.items()})
        return taken

    def _read(self, records_max: int) -> dict[int, Sequence[Record]]:
        found: dict[int, Sequence[Record]] = {}
        if not self._open:
            return found
        for partition, position in self._positions.items():
            records = self._broker.logs[self._topic, partition].read(position, records_max)
            if records:
                found[partition] = records
                self._positions[partition] = records[-1].offset + 1
                records_max -= len(records)
            if records_max <= 0:
                break
        return found

    async def commit(self, epoch: int, next_offsets: Mapping[int, int]) -> bool:
        if self._wrong.commits_after_post and self._name == "submitter":
            self._life.spawn(self._commit_later(dict(next_offsets)))
            return True
        async with self._commit_lock:
            if epoch != self._epoch or not self._open:
                return False
            await self._life.point(f"{self._name}.commit")
            if not self._group.commit(self._member, {(self._topic, p): at for p, at in next_offsets.items()}):
                self._open = False
                return False
            await self._life.point(f"{self._name}.committed")
            held = self._group.generation == self._generation
        if not held:
            self._life.chaos.met.add(f"{self._name} commit of a generation that ended")
        return held

    async def _commit_later(self, next_offsets: dict[int, int]) -> None:
        await asyncio.sleep(0.5)
        await self._life.point(f"{self._name}.commit")
        self._group.commit(self._member, {(self._topic, p): at for p, at in next_offsets.items()})

    async def read_back(self, partition: int, before_offset: int, since_ms: int, records_max: int) -> ReadBack:
        await self._life.point(f"{self._name}.read_back")
        if self._wrong.forgets_commands:
            return ReadBack((), since_ms)
        log = self._broker.logs[self._topic, partition]
        end = bisect_left(log.offsets, before_offset)
        since = next((i for i, record in enumerate(log.records) if record.timestamp_ms >= since_ms), end)
        start = max(since, end - records_max)
        if start >= end:
            return ReadBack((), since_ms)
        records = log.records[start:end]
        return ReadBack(records, since_ms if start == since else records[0].timestamp_ms)
