"""What a member leaves to the next one on a real broker: the note of its commit, and its place in the group."""

import asyncio
from pathlib import Path

from backstop.dev.broker import Owned
from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.former_members import FormerMembers
from backstop.runtime.kafka.topics import create_topics
from backstop.runtime.settings import RuntimeSettings
from streams.workers.command_group import CommandGroup
from streams.workers.offset_notes import NOTE_CHARS_MAX, decode_note, encode_note
from streams.workers.offsets import Committed
from tests.support.waiting import eventually

TAKE_WAIT_MS = 50


async def assigned(group: CommandGroup) -> bool:
    await group.take(1, TAKE_WAIT_MS)
    return bool(group.partitions)


def test_a_note_of_the_greatest_length_comes_back_to_the_next_member(broker: Owned, prefix: str) -> None:
    settings = RuntimeSettings(kafka_bootstrap_servers=broker.bootstrap, topic_prefix=prefix, partitions=2)
    note = encode_note(7, range(9, 100_000, 2))
    assert len(note) > 0.99 * NOTE_CHARS_MAX

    def member() -> CommandGroup:
        return CommandGroup(settings, topic="polls", group="poller", session_timeout_ms=6_000)

    async def scenario() -> None:
        await create_topics(settings)
        first, second, stop = member(), member(), asyncio.Event()
        try:
            await first.start(stop)
            await eventually(lambda: assigned(first), 30, "the first assignment")
            began = await first.assignment()
            assert set(began.places.values()) == {Committed()}
            assert await first.commit(began.epoch, {0: 7}, {0: note})
            await first.stop()
            await second.start(stop)
            await eventually(lambda: assigned(second), 30, "the assignment of the next")
            places = (await second.assignment()).places
            assert places == {0: Committed(7, note), 1: Committed()}
            assert len(decode_note(7, places[0].note)) > 1_000
        finally:
            await first.stop()
            await second.stop()

    asyncio.run(scenario())


def test_a_member_that_died_is_left_by_its_successor_and_its_partitions_move_at_once(
    broker: Owned, prefix: str, tmp_path: Path
) -> None:
    settings = RuntimeSettings(kafka_bootstrap_servers=broker.bootstrap, topic_prefix=prefix, partitions=2)
    session_s = 60

    async def scenario() -> None:
        await create_topics(settings)
        died = FormerMembers(tmp_path)
        first, second = (
            CommandGroup(settings, topic="polls", group="poller", session_timeout_ms=session_s * 1_000, joined=joined)
            for joined in (died.joined, None)
        )
        stop = asyncio.Event()
        try:
            await first.start(stop)
            await eventually(lambda: assigned(first), 30, "the first assignment")
            # As after SIGKILL: no word to the group, and the system gives the lock back.
            coordinator = first._group._consumer._coordinator
            coordinator._coordination_task.cancel()
            coordinator._heartbeat_task.cancel()
            died.close()
            successor = FormerMembers(tmp_path)
            await successor.leave(client_options(settings))
            await second.start(stop)
            await eventually(lambda: assigned(second), session_s / 3, "the assignment of the successor")
            assert second.partitions == {0, 1}
            successor.close()
        finally:
            await second.stop()
            await first.stop()

    asyncio.run(scenario())
