"""A member of a group that takes records of its own process from memory, over a consumer that behaves as aiokafka."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition

from backstop.runtime.kafka.consumer_group import ConsumerGroup
from backstop.runtime.records import Record
from backstop.runtime.settings import RuntimeSettings
from streams.workers.hand_over import QUIET_MS
from streams.workers.handed_group import HandedGroup
from tests.simulation.clients import Fetcher
from tests.simulation.loop import VirtualLoop

TP = TopicPartition("polls", 0)


class Member:
    """The only member, of partition 0. `log` is its records; a fetch brings them at once, unless it is paused."""

    def __init__(self) -> None:
        self._fetcher = Fetcher()
        self._coordinator = SimpleNamespace(generation=1)
        self.log: list[Record] = []
        self.state = SimpleNamespace(has_valid_position=True, position=0)
        self.fetched: list[int] = []
        self.paused = False
        self.active = True

    def __call__(self, **_options: Any) -> "Member":
        return self

    @property
    def _subscription(self) -> Any:
        assignment = SimpleNamespace(active=self.active, tps={TP}, state_value=lambda _: self.state)
        return SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))

    def subscribe(self, _topics: list[str], listener: ConsumerGroup) -> None:
        self.listener = listener

    async def start(self) -> None:
        await self.listener.on_partitions_assigned([TP])

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        assert timeout_ms == 0
        if self.paused:
            return {}
        new = self.log[self.state.position :][:max_records]
        self.fetched += [each.offset for each in new]
        self.state.position += len(new)
        return {TP: [SimpleNamespace(**_fields(each)) for each in new]} if new else {}

    def seek(self, _tp: TopicPartition, offset: int) -> None:
        self.state.position = offset

    def pause(self, _tp: TopicPartition) -> None:
        self.paused = True

    def resume(self, _tp: TopicPartition) -> None:
        self.paused = False

    def write(self) -> Record:
        """Append a record; a fetch can't bring it before it is handed over, as it is paused."""
        record = Record("polls", 0, len(self.log), 7, b"k", b"v")
        self.log.append(record)
        return record

    def write_elsewhere(self) -> None:
        self.write()
        self._fetcher.set()


def _fields(record: Record) -> dict[str, Any]:
    return {
        "topic": record.topic, "partition": record.partition, "offset": record.offset,
        "timestamp": record.timestamp_ms, "key": record.key, "value": record.value, "headers": (),
    }  # fmt: skip


def joined(case: Callable[[HandedGroup, Member], Awaitable[None]]) -> None:
    async def run() -> None:
        member = Member()
        group = HandedGroup(RuntimeSettings(topic_prefix=""), topic="polls", group="poller", consumer=member)
        await group.join()
        await case(group, member)

    loop = VirtualLoop("handed")
    try:
        loop.run_until_complete(run())
    finally:
        loop.close()


async def offsets(group: HandedGroup, wait_ms: int = 0, room: int = 10) -> list[int]:
    taken = await group.take(room, wait_ms)
    return [each.offset for each in taken.by_partition.get(("polls", 0), [])]


def test_an_acknowledged_record_is_taken_without_a_fetch_and_not_fetched_afterwards() -> None:
    async def case(group: HandedGroup, member: Member) -> None:
        member.paused = True  # no fetch comes
        group.landed(member.write())
        taken = await group.take(10, 0)
        assert taken.epoch == 1
        assert taken.by_partition == {("polls", 0): [member.log[0]]}
        member.resume(TP)
        assert await offsets(group) == []
        assert member.fetched == []

    joined(case)


def test_a_call_that_waits_is_woken() -> None:
    async def case(group: HandedGroup, member: Member) -> None:
        member.paused = True
        waiting = asyncio.create_task(offsets(group, 60_000))
        await asyncio.sleep(1)
        group.landed(member.write())
        assert await waiting == [0]
        assert asyncio.get_running_loop().time() == 1

    joined(case)


def test_a_partition_that_lives_on_own_records_is_not_fetched_until_it_has_none_for_a_while() -> None:
    async def case(group: HandedGroup, member: Member) -> None:
        group.landed(member.write())
        member.paused = True
        assert await offsets(group) == [0]
        assert member.paused
        member.write_elsewhere()
        began_s = asyncio.get_running_loop().time()
        while await offsets(group, 60_000) != [1]:
            pass
        assert asyncio.get_running_loop().time() - began_s <= QUIET_MS / 1_000
        assert not member.paused

    joined(case)


def test_a_record_of_another_process_in_between_is_fetched_first() -> None:
    async def case(group: HandedGroup, member: Member) -> None:
        member.paused = True
        group.landed(member.write())
        assert await offsets(group) == [0]
        member.write_elsewhere()
        group.landed(member.write())
        assert member.paused
        assert await offsets(group) == [1, 2]  # The gap ends the quiet.
        assert member.fetched == [1, 2]

    joined(case)


def test_nothing_is_handed_over_while_partitions_move_or_before_the_reader_knows_its_place() -> None:
    async def case(group: HandedGroup, member: Member) -> None:
        member.paused = True
        await group.on_partitions_revoked([TP])
        group.landed(member.write())
        assert await offsets(group) == []
        member.state.has_valid_position = False
        await group.on_partitions_assigned([TP])
        group.landed(member.write())
        assert await offsets(group) == []
        member.state.has_valid_position, member.state.position = True, 1
        assert await offsets(group) == [1]

    joined(case)


def test_what_was_fetched_comes_before_what_was_handed_over_within_the_room() -> None:
    async def case(group: HandedGroup, member: Member) -> None:
        member.write()
        member.write()
        group.landed(member.write())
        assert await offsets(group, room=2) == [0, 1]
        assert await offsets(group, room=2) == [2]

    joined(case)
