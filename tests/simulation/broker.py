"""A broker as a value: logs with offsets and gaps, fences, consumer groups with generations.

It never dies (real brokers are broken elsewhere, `tests/kafka`); what its clients hear of it is `ports`' business.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
from zlib import crc32

from tests.simulation.chaos import Chaos, Life

FOLD_TOPICS = ("requests", "jobs", "responses")


class Record(NamedTuple):
    """As `backstop.runtime.records.Record`, and made in a third of the time."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    message_id: str = ""
    """For the checks only; the system reads the value."""

    @property
    def timestamp(self) -> int:
        """As aiokafka calls it."""
        return self.timestamp_ms


class Watcher(Protocol):
    def set(self) -> None:
        """A record was written."""


class Log:
    """One partition of a topic."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.records: list[Record] = []
        self.offsets: list[int] = []
        self.end = 0
        self.epoch = 0
        """Of a changelog: its writer must have the newest epoch."""
        self.watchers: list[Watcher] = []

    def append(self, key: bytes | None, value: bytes | None, at_ms: int, message_id: str = "", gap: int = 0) -> Record:
        offset = self.end + gap
        record = Record(self.topic, self.partition, offset, at_ms, key, value, (), message_id)
        self.records.append(record)
        self.offsets.append(offset)
        self.end = offset + 1
        for watcher in self.watchers:
            watcher.set()
        return record

    def read(self, position: int, records_max: int) -> list[Record]:
        start = bisect_left(self.offsets, position)
        return self.records[start : start + records_max]

    def compact(self, before_ms: int) -> None:
        """Of what was written before that, only the last record of each key stays."""
        end = next((i for i, record in enumerate(self.records) if record.timestamp_ms >= before_ms), len(self.records))
        last = {record.key: record.offset for record in self.records[:end]}
        kept = [record for record in self.records[:end] if last[record.key] == record.offset]
        self.records[:end] = kept
        self.offsets = [record.offset for record in self.records]


@dataclass(slots=True)
class FencedLog:
    """One partition of `results`: the epochs that the coordinator of its fence id gives, and the newest one that the
    partition's leader has seen.
    """

    records: list[tuple[int, str, bytes]] = field(default_factory=list)
    """(offset, job id, value)"""
    end: int = 0
    epoch: int = 0
    continued: int = -1
    """The epoch that asked for the present one; -1: a new owner did."""
    marked: int = 0

    def init(self, former: int | None) -> int | None:
        """The next epoch; None if `former` is not the newest any more."""
        if former is not None and former == self.continued:
            return self.epoch  # the answer was lost, and it asks again
        if former not in {None, self.epoch}:
            return None
        self.continued = -1 if former is None else former
        self.epoch += 1
        return self.epoch

    def mark(self, epoch: int) -> bool:
        """Write the marker: the leader refuses older epochs from now on."""
        if epoch != self.epoch:
            return False
        self.marked = epoch
        self.end += 1
        return True

    def append(self, epoch: int, batch: Sequence[tuple[str, bytes]]) -> bool:
        """The coordinator is not asked: an epoch that the leader does not know to be old is taken."""
        if epoch < self.marked:
            return False
        self.marked = epoch
        for job_id, value in batch:
            self.records.append((self.end, job_id, value))
            self.end += 1
        return True


class Member:
    """A life's seat in a group."""

    def __init__(self, life: Life, host: str) -> None:
        self.life = life
        self.host = host
        self.generation = -1
        self.partitions: tuple[int, ...] = ()
        self.moving = asyncio.Event()
        """The group rebalances: give up, commit, and join again."""
        self.joined: asyncio.Future[None] | None = None
        self.watched = False


class Group:
    """A group's coordinator: its members, their partitions, and the committed offsets."""

    def __init__(
        self, name: str, chaos: Chaos, partitions: int, *, session_s: float, rebalance_s: float, static: bool
    ) -> None:
        self.name = name
        self._chaos = chaos
        self._partitions = partitions
        self._session_s = session_s
        self._rebalance_s = rebalance_s
        self._static = static
        self.members: dict[str, Member] = {}
        self.generation = 0
        self.rebalances = 0
        self._preparing = False
        self.committed: dict[tuple[str, int], int] = {}
        self.notes: dict[tuple[str, int], str] = {}

    async def join(self, member: Member) -> None:
        """Return once a generation has begun with this member in it; or it was put out meanwhile (see `holds`)."""
        await member.life.point(f"{self.name}.join")
        if not member.watched:
            member.watched = True
            member.life.on_silence.append(lambda still: self._watch(member, still))
        seated = self.members.get(member.host)
        if seated is not member:
            self.members[member.host] = member
            if self._static and seated is not None and not self._preparing:
                # The same name again, within its session: it keeps its partitions, and no rebalance happens.
                member.generation, member.partitions = seated.generation, seated.partitions
                self._chaos.met.add("static return")
                return
        self.rebalance()
        joined = member.joined = self._chaos.loop.create_future()
        self._complete_if_all()
        await joined

    def rebalance(self) -> None:
        if self._preparing or not self.members:
            return
        self._preparing = True
        self.rebalances += 1
        number = self.rebalances
        self._chaos.note(self.name, "REBALANCE", " ".join(self.members))
        for member in self.members.values():
            member.moving.set()
        self._chaos.loop.call_later(self._rebalance_s, lambda: self._out_of_patience(number))

    def leave(self, member: Member) -> None:
        if self.members.get(member.host) is member:
            del self.members[member.host]
            self._after_loss()

    def commit(self, member: Member, offsets: dict[tuple[str, int], int]) -> bool:
        """Of the present generation only; during a rebalance it is still the one before."""
        if self.members.get(member.host) is not member or member.generation != self.generation:
            return False
        for place, offset in offsets.items():
            self.committed[place] = offset
        return True

    def keep(self, places: Mapping[tuple[str, int], tuple[int, str]]) -> None:
        """A commit that was taken: offsets with their metadata."""
        for place, (offset, note) in places.items():
            self.committed[place], self.notes[place] = offset, note

    def holds(self, member: Member) -> bool:
        return self.members.get(member.host) is member and member.generation == self.generation

    def _watch(self, member: Member, still: Callable[[], bool]) -> None:
        def expire() -> None:
            if still() and self.members.get(member.host) is member:
                self._chaos.note(self.name, "SESSION OVER", member.host)
                self._chaos.met.add("session over")
                self._put_out(member)
                self._after_loss()

        self._chaos.loop.call_later(self._session_s, expire)

    def _put_out(self, member: Member) -> None:
        """It hears of it when it next asks: at once if it waits for an answer."""
        del self.members[member.host]
        member.moving.set()
        joined, member.joined = member.joined, None
        if joined is not None and not joined.done():
            joined.set_result(None)

    def _after_loss(self) -> None:
        if not self.members:
            self._preparing = False
        elif self._preparing:
            self._complete_if_all()
        else:
            self.rebalance()

    def _complete_if_all(self) -> None:
        if self._preparing and all(member.joined is not None for member in self.members.values()):
            self._complete()

    def _out_of_patience(self, number: int) -> None:
        if not self._preparing or number != self.rebalances:
            return
        for member in list(self.members.values()):
            if member.joined is None:
                self._chaos.met.add("put out of a group")
                self._put_out(member)
        if self.members:
            self._complete()
        else:
            self._preparing = False

    def _complete(self) -> None:
        self._preparing = False
        self.generation += 1
        members = list(self.members.values())
        self._chaos.random.shuffle(members)
        for index, member in enumerate(members):
            member.generation = self.generation
            member.partitions = tuple(range(index, self._partitions, len(members)))
            member.moving.clear()
            joined, member.joined = member.joined, None
            if joined is not None and not joined.done():
                joined.set_result(None)
            self._chaos.note(self.name, "ASSIGNED", f"{member.life.name} {member.partitions} in {self.generation}")


class Broker:
    def __init__(self, chaos: Chaos, partitions: int) -> None:
        self.chaos = chaos
        self.partitions = partitions
        self.logs: dict[tuple[str, int], Log] = {
            (topic, partition): Log(topic, partition)
            for topic in (
                *FOLD_TOPICS,
                "submissions",
                "polls",
                "dead-letters",
                "lanes",
                "jobs-changelog",
                "responses-changelog",
            )
            for partition in range(partitions)
        }
        self.results = [FencedLog() for _ in range(partitions)]
        static = chaos.mixture.static

        def group(name: str) -> Group:
            return Group(name, chaos, partitions, session_s=3.0, rebalance_s=6.0, static=static and name == "worker")

        self.groups = {name: group(name) for name in ("worker", "submitter", "poller")}

    def of_topic(self, topic: str) -> list[Log]:
        return [self.logs[topic, partition] for partition in range(self.partitions)]

    def append(self, topic: str, key: bytes, value: bytes | None, at_ms: int, message_id: str = "") -> Record:
        chaos = self.chaos
        gap = chaos.random.randrange(1, 4) if chaos.chance(chaos.mixture.gap) else 0
        return self.logs[topic, crc32(key) % self.partitions].append(key, value, at_ms, message_id, gap)

    def rebalance_any(self) -> None:
        name = self.chaos.random.choice(("worker", "submitter", "poller"))
        self.chaos.met.add(f"rebalance of {name}")
        self.groups[name].rebalance()
