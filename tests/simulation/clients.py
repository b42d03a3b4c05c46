"""The part of aiokafka's clients that `ConsumerGroup` and `TopicFollower` use, on the model broker, so that the real
classes run in a simulation.

As in aiokafka 0.14: an expelled member has no generation (-1) until it has joined again. A commit carries the client's
generation at the time of sending, and a commit without a generation is accepted while the group is empty.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError
from aiokafka.structs import OffsetAndMetadata

from tests.simulation.broker import Broker, Group, Member, Record
from tests.simulation.chaos import Life

GENERATION_NONE = -1


@dataclass(frozen=True, slots=True)
class Found:
    """A place in a log."""

    offset: int


FETCH_S_MAX = 0.03


class Fetcher:
    """Brings records, and wakes the calls that wait for them. It is a watcher of logs."""

    def __init__(self, fetched: Callable[[], None] = lambda: None, delay_s: Callable[[], float] = lambda: 0.0) -> None:
        """:param fetched: is called when a fetch has come. :param delay_s: how long that takes."""
        self._fetch_waiters: set[asyncio.Future[None]] = set()
        self._get_actions_per_node = None
        self._fetched = fetched
        self._delay_s = delay_s

    def set(self) -> None:
        """A record was written."""
        asyncio.get_running_loop().call_later(self._delay_s(), self.arrive)

    def arrive(self) -> None:
        self._fetched()
        for waiter in list(self._fetch_waiters):
            self._notify(waiter)

    def _notify(self, waiter: "asyncio.Future[None]") -> None:
        if not waiter.done():
            waiter.set_result(None)

    def _create_fetch_waiter(self) -> "asyncio.Future[None]":
        waiter = asyncio.get_running_loop().create_future()
        self._fetch_waiters.add(waiter)
        waiter.add_done_callback(self._fetch_waiters.discard)
        return waiter


class Consumer:
    """One `AIOKafkaConsumer`: a member of `group_id`, or a reader that is told what to read."""

    def __init__(self, life: Life, broker: Broker, host: str, **options: Any) -> None:
        self._life = life
        self._broker = broker
        self._name: str = options.get("group_id") or options["client_id"].removesuffix("-tail")
        self._in_group = "group_id" in options
        self._topic = ""
        self._listener: Any = None
        self._member = Member(life, host)
        self._positions: dict[int, int] = {}
        self._wake = asyncio.Event()
        self._stopping = False
        self.generation = GENERATION_NONE
        self._coordinator = self
        self._fetcher = Fetcher(self._fetched, lambda: broker.chaos.random.random() * FETCH_S_MAX)
        self._fetched_to: dict[int, int] = {}
        """Of each partition the offset up to which records have come."""
        self._paused: set[int] = set()

    def _fetched(self) -> None:
        self._fetched_to = {p: self._broker.logs[self._topic, p].end for p in self._positions}

    @property
    def _subscription(self) -> Any:
        """As far as a position is read from it."""
        tps = {TopicPartition(self._topic, partition) for partition in self._positions}
        assignment = SimpleNamespace(active=True, tps=tps, state_value=self._state)
        return SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))

    def _state(self, tp: TopicPartition) -> Any:
        return SimpleNamespace(has_valid_position=True, position=self._positions[tp.partition])

    @property
    def _group(self) -> Group:
        return self._broker.groups[self._name]

    def subscribe(self, topics: Sequence[str], listener: Any) -> None:
        (self._topic,) = topics
        self._listener = listener

    async def start(self) -> None:
        if self._in_group:
            for log in self._broker.of_topic(self._topic):
                log.watchers.append(self._fetcher)
            self._life.spawn(self._belong())

    async def stop(self) -> None:
        self.nudge()
        if not self._in_group:
            return
        for log in self._broker.of_topic(self._topic):
            if self._fetcher in log.watchers:
                log.watchers.remove(self._fetcher)
        if not self._life.dead:
            self._group.leave(self._member)

    def nudge(self) -> None:
        """Wake the call that waits for records; later calls don't wait either."""
        self._stopping = True
        self._fetcher.arrive()

    async def _belong(self) -> None:
        """The coordinator's side of the client: joins, gives up, joins again."""
        while not self._stopping:
            group, member = self._group, self._member
            if not group.holds(member):
                member = self._member = Member(self._life, member.host)
            await group.join(member)
            if not group.holds(member):
                continue
            self.generation = member.generation
            self._positions = {p: group.committed.get((self._topic, p), 0) for p in member.partitions}
            self._paused = set()
            await self._listener.on_partitions_assigned([TopicPartition(self._topic, p) for p in member.partitions])
            self._fetcher.set()
            await member.moving.wait()
            if group.members.get(member.host) is not member:
                self.generation = GENERATION_NONE
            revoked = [TopicPartition(self._topic, p) for p in self._positions]
            self._positions = {}
            await self._listener.on_partitions_revoked(revoked)

    async def getmany(
        self, *tps: TopicPartition, timeout_ms: int, max_records: int = 500
    ) -> dict[TopicPartition, list[Any]]:
        """Never waits: the group does."""
        if not tps:
            await self._life.point(f"{self._name}.take")
        return self._read(max_records)

    def _read(self, records_max: int) -> dict[TopicPartition, list[Record]]:
        found: dict[TopicPartition, list[Record]] = {}
        for partition, position in self._positions.items():
            if partition in self._paused:
                continue
            records = self._broker.logs[self._topic, partition].read(position, records_max)
            if self._in_group:
                records = [each for each in records if each.offset < self._fetched_to.get(partition, 0)]
            if records:
                found[TopicPartition(self._topic, partition)] = records
                self._positions[partition] = records[-1].offset + 1
                records_max -= len(records)
            if records_max <= 0:
                break
        return found

    async def commit(self, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
        await self._life.point(f"{self._name}.commit")
        group, places = self._group, {(tp.topic, tp.partition): at for tp, at in offsets.items()}
        if self.generation == GENERATION_NONE and not group.members:
            self._life.chaos.met.add(f"{self._name} commit to an empty group")
            group.keep(places)
        elif not group.commit(self._member, {place: at for place, (at, _) in places.items()}):
            raise CommitFailedError("the group has rebalanced")
        else:
            group.keep(places)
        await self._life.point(f"{self._name}.committed")
        if not group.holds(self._member):
            self._life.chaos.met.add(f"{self._name} commit of a generation that ended")

    async def fetch_committed_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        group = self._group
        return {
            tp: OffsetAndMetadata(
                group.committed[tp.topic, tp.partition], group.notes.get((tp.topic, tp.partition), "")
            )
            for tp in tps
            if (tp.topic, tp.partition) in group.committed
        }

    # -- of a reader

    async def offsets_for_times(self, times: Mapping[TopicPartition, int]) -> dict[TopicPartition, Found | None]:
        await self._life.point(f"{self._name}.read_back")
        found: dict[TopicPartition, Found | None] = {}
        for tp, since_ms in times.items():
            records = self._broker.logs[tp.topic, tp.partition].records
            found[tp] = next((Found(record.offset) for record in records if record.timestamp_ms >= since_ms), None)
        return found

    async def beginning_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, 0)

    def assign(self, tps: Sequence[TopicPartition]) -> None:
        self._topic = tps[0].topic
        self._positions = {tp.partition: 0 for tp in tps}

    def pause(self, tp: TopicPartition) -> None:
        self._paused.add(tp.partition)

    def resume(self, tp: TopicPartition) -> None:
        self._paused.discard(tp.partition)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._positions[tp.partition] = offset

    async def position(self, tp: TopicPartition) -> int:
        return self._positions[tp.partition]


class TopicReader:
    """An `AIOKafkaConsumer` without a group: all partitions of a topic, from the beginning."""

    def __init__(self, life: Life, broker: Broker, topic: str, **options: Any) -> None:
        self._life = life
        self._name = options["client_id"].removeprefix("backstop-")
        self._logs = {TopicPartition(topic, log.partition): log for log in broker.of_topic(topic)}
        self._positions = dict.fromkeys(self._logs, 0)
        self._wake = asyncio.Event()
        self._fetcher = None

    async def start(self) -> None:
        for log in self._logs.values():
            log.watchers.append(self._wake)

    async def stop(self) -> None:
        for log in self._logs.values():
            log.watchers.remove(self._wake)

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._logs)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._positions[tp] = offset

    async def end_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self._logs[tp].end for tp in tps}

    async def position(self, tp: TopicPartition) -> int:
        return self._positions[tp]

    async def getmany(self, *, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        """Waits for as long as there is nothing, as `Consumer.getmany` does."""
        await self._life.point(f"{self._name}.read")
        read = {tp: log.read(self._positions[tp], 500) for tp, log in self._logs.items()}
        found = {tp: records for tp, records in read.items() if records}
        if not found:
            self._wake.clear()
            await self._wake.wait()
        self._positions.update({tp: records[-1].offset + 1 for tp, records in found.items()})
        return found
