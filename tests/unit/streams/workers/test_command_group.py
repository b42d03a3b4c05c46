"""The real `CommandGroup` over a consumer that behaves as aiokafka may: the fence of a commit, notes, assignments."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    KafkaError,
    NotCoordinatorForGroupError,
    OffsetMetadataTooLargeError,
    TopicAuthorizationFailedError,
)
from aiokafka.structs import OffsetAndMetadata

from backstop.runtime.kafka.consumer_group import ConsumerGroup
from backstop.runtime.settings import RuntimeSettings
from streams.workers.command_group import CommandGroup
from streams.workers.commands import Assignment
from streams.workers.offsets import Committed

TOPIC = "polls"


@dataclass
class Member:
    """One member of a group with a broker of its own: `before_commit` happens while a commit is on its way."""

    notes_max: int = 4_096
    generation: int = 1
    kept: dict[TopicPartition, OffsetAndMetadata] = field(default_factory=dict)
    before_commit: Callable[[], None] = lambda: None
    fetch_errors: list[KafkaError] = field(default_factory=list)
    on_fetch: Callable[[], Awaitable[None]] | None = None
    _fetcher: Any = None

    def __call__(self, **_options: Any) -> "Member":
        return self

    @property
    def _coordinator(self) -> "Member":
        return self

    def subscribe(self, _topics: list[str], listener: ConsumerGroup) -> None:
        self.listener = listener

    async def start(self) -> None:
        await self.assign(0)

    async def stop(self) -> None:
        self.generation = -1

    async def assign(self, *partitions: int) -> None:
        await self.listener.on_partitions_assigned([TopicPartition(TOPIC, partition) for partition in partitions])

    async def commit(self, offsets: dict[TopicPartition, tuple[int, str]]) -> None:
        self.before_commit()
        if any(len(note) > self.notes_max for _, note in offsets.values()):
            raise OffsetMetadataTooLargeError
        self.kept |= {tp: OffsetAndMetadata(*at) for tp, at in offsets.items()}

    async def fetch_committed_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        if self.fetch_errors:
            raise self.fetch_errors.pop(0)
        if self.on_fetch is not None:
            on_fetch, self.on_fetch = self.on_fetch, None
            await on_fetch()
        return {tp: self.kept[tp] for tp in tps if tp in self.kept}


def joined(case: Callable[[CommandGroup, Member], Awaitable[None]], member: Member | None = None) -> None:
    async def run() -> None:
        seat = member or Member()
        group = CommandGroup(RuntimeSettings(topic_prefix=""), topic=TOPIC, group="poller", consumer=seat)
        await group.start(asyncio.Event())
        await case(group, seat)

    asyncio.run(run())


def test_a_commit_in_the_generation_of_the_assignment_counts() -> None:
    async def case(group: CommandGroup, member: Member) -> None:
        assert await group.commit(1, {0: 7}, {0: "a note"})
        assert member.kept == {TopicPartition(TOPIC, 0): OffsetAndMetadata(7, "a note")}

    joined(case)


@pytest.mark.parametrize("generation", [-1, 2])
def test_a_commit_that_was_accepted_in_another_generation_does_not_count(generation: int) -> None:
    """aiokafka repeats a commit with its current generation; another member may have owned the partition."""

    async def case(group: CommandGroup, member: Member) -> None:
        member.before_commit = lambda: setattr(member, "generation", generation)
        assert not await group.commit(1, {0: 7})

    joined(case)


def test_a_commit_of_an_earlier_assignment_is_not_even_sent() -> None:
    async def case(group: CommandGroup, member: Member) -> None:
        await member.assign(0)
        assert not await group.commit(1, {0: 7})
        assert member.kept == {}
        assert await group.commit(2, {0: 7})

    joined(case)


def test_after_a_refused_commit_nothing_is_committed_before_the_next_assignment() -> None:
    async def case(group: CommandGroup, member: Member) -> None:
        def refuse() -> None:
            raise CommitFailedError("rebalanced")

        member.before_commit = refuse
        assert not await group.commit(1, {0: 7})
        member.before_commit = lambda: None
        assert not await group.commit(1, {0: 7})
        await member.assign(0)
        assert await group.commit(2, {0: 7})

    joined(case)


def test_a_rebalance_waits_for_a_commit_that_is_on_its_way() -> None:
    async def case(group: CommandGroup, member: Member) -> None:
        async with group._group._commit_lock:
            revoking = asyncio.create_task(group._group.on_partitions_revoked([]))
            await asyncio.sleep(0)
            assert not revoking.done()
        await revoking
        assert not await group.commit(1, {0: 7})

    joined(case)


def test_a_broker_that_takes_no_notes_gets_offsets_alone() -> None:
    async def case(group: CommandGroup, member: Member) -> None:
        assert await group.commit(1, {0: 7}, {0: "x" * 200})
        assert await group.commit(1, {0: 8}, {0: "short"})
        assert member.kept == {TopicPartition(TOPIC, 0): OffsetAndMetadata(8, "")}

    joined(case, Member(notes_max=100))


def test_an_assignment_tells_where_each_partition_begins_and_what_was_noted() -> None:
    async def case(group: CommandGroup, member: Member) -> None:
        member.kept = {TopicPartition(TOPIC, 1): OffsetAndMetadata(9, "a note")}
        member.fetch_errors.append(NotCoordinatorForGroupError())
        await member.assign(1, 2)
        assert group.partitions == {1, 2}
        assert await group.assignment() == Assignment(2, {1: Committed(9, "a note"), 2: Committed()})

    joined(case)


def test_an_assignment_that_is_overtaken_while_it_is_read_is_not_told() -> None:
    async def case(group: CommandGroup, member: Member) -> None:
        member.on_fetch = lambda: member.assign(3)
        assert await group.assignment() == Assignment(2, {3: Committed()})

    joined(case)


def test_what_waiting_does_not_mend_is_raised() -> None:
    async def case(group: CommandGroup, member: Member) -> None:
        member.fetch_errors.append(TopicAuthorizationFailedError())
        with pytest.raises(TopicAuthorizationFailedError):
            await group.assignment()

    joined(case)
