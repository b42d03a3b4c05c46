"""The poller through assignments and storms: what expires, what is kept, and what the next owner learns."""

import asyncio
from pathlib import Path

import pytest

from schemas.commands import CancelResponse, PollReason, RetrieveResponse
from streams.policy.polls import PollPolicy, Webhooks
from streams.workers.offset_notes import decode_note, encode_note
from tests.support.waiting import eventually
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.calling import NOW_MS, RUNNING, Bench, any_response, calling, cancel, poll
from tests.unit.streams.workers.memory_commands import MemoryCommands

REPORT_MS = 10_000
LATE_MS = REPORT_MS + 1


def asked(ago_ms: int, reason: PollReason, number: int) -> RetrieveResponse:
    return poll(f"resp_{number}", reason, number).model_copy(update={"at_ms": NOW_MS - ago_ms})


def cancelled(ago_ms: int, number: int) -> CancelResponse:
    return cancel(f"resp_{number}").model_copy(update={"at_ms": NOW_MS - ago_ms})


def dropped(bench: Bench, reason: str) -> float:
    labels = {"worker": "poller", "reason": reason}
    return bench.registry.get_sample_value("backstop_commands_dropped_total", labels) or 0.0


def gauge(bench: Bench, name: str) -> float | None:
    return bench.registry.get_sample_value(f"backstop_{name}")


def test_whatever_its_row_asks_for_again_expires_and_what_it_may_not_ask_for_does_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with calling(tmp_path, polls=Webhooks(PollPolicy(report_ms=REPORT_MS))) as bench:
            bench.server.script[:] = [any_response()(bench.server)]
            bench.commands.publish(
                asked(LATE_MS, "timer", 1), asked(LATE_MS, "webhook", 2), asked(LATE_MS, "claim", 3),
                cancelled(LATE_MS, 4), asked(REPORT_MS, "timer", 5), asked(REPORT_MS, "webhook", 6),
                cancelled(REPORT_MS, 7), asked(99_000, "adoption", 8),
            )  # fmt: skip
            facts = await bench.facts(4)
            assert {fact.response_id for fact in facts} == {"resp_5", "resp_6", "resp_7", "resp_8"}
            await eventually(lambda: bench.commands.committed == {0: 8}, 5, "the commit of all")
            assert (len(bench.asked), dropped(bench, "overtaken")) == (4, 4)

    asyncio.run(scenario())


def test_a_poll_that_was_asked_for_again_expires_later(tmp_path: Path) -> None:
    async def scenario() -> None:
        commands = MemoryCommands()
        commands.publish(cancelled(REPORT_MS, 1), asked(0, "timer", 1))
        clock = [NOW_MS]
        async with calling(
            tmp_path, commands=commands, polls=Webhooks(PollPolicy(report_ms=REPORT_MS)), now_ms=lambda: clock[0]
        ) as bench:
            bench.server.script[:] = [any_response()(bench.server)]
            bench.rate.object(300)
            await eventually(lambda: len(commands.journal) == 2, 5, "both taken")
            clock[0] += 1
            await bench.facts(1)
            assert bench.asked == ["POST resp_1/cancel"]

    asyncio.run(scenario())


def test_in_a_long_silence_a_full_queue_makes_room_by_what_expires(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = [NOW_MS]
        async with calling(
            tmp_path, queue_max=3, polls=Webhooks(PollPolicy(report_ms=REPORT_MS)), now_ms=lambda: clock[0]
        ) as bench:
            bench.rate.object(60_000)
            bench.commands.publish(*(poll(f"resp_{number}") for number in range(5)))
            await eventually(lambda: len(bench.commands.journal) == 3, 5, "three taken")
            clock[0] += LATE_MS
            await eventually(lambda: bench.commands.committed == {0: 5}, 5, "the commit of what expired")
            assert bench.asked == []
            assert (gauge(bench, "polls_uncommitted"), gauge(bench, "poll_lag_seconds")) == (0, 0)

    asyncio.run(scenario())


def test_calls_of_a_partition_that_we_keep_go_on_through_an_assignment(tmp_path: Path) -> None:
    async def scenario() -> None:
        commands = MemoryCommands()
        commands.publish(poll("stalled"), *(poll(f"resp_{number}") for number in range(3)))
        async with calling(tmp_path, server.stall, RUNNING, commands=commands, concurrency=1, drain_ms=10) as bench:
            bench.server.script[1] = any_response()(bench.server)
            await eventually(lambda: len(commands.journal) == 4 and bench.asked, 5, "one in flight, three that wait")
            commands.reassign()
            await bench.facts(4)
            assert [asked.rpartition(" ")[2] for asked in bench.asked] == [
                "stalled", "resp_0", "resp_1", "resp_2", "stalled",
            ]  # fmt: skip
            assert (dropped(bench, "known"), dropped(bench, "moved")) == (4, 0)
            await eventually(lambda: commands.committed == {0: 4}, 5, "the commit")

    asyncio.run(scenario())


def test_waiting_calls_of_a_revoked_partition_are_left_to_the_next_owner(tmp_path: Path) -> None:
    async def scenario() -> None:
        commands = MemoryCommands()
        for partition in range(2):
            commands.publish(*(poll(f"resp_{partition}{number}") for number in range(3)), partition=partition)
        async with calling(tmp_path, commands=commands) as bench:
            bench.server.script[:] = [any_response()(bench.server)]
            bench.rate.object(300)
            await eventually(lambda: len(commands.journal) == 6, 5, "six taken")
            commands.reassign(1)
            facts = await bench.facts(3)
            assert sorted(fact.response_id for fact in facts) == ["resp_00", "resp_01", "resp_02"]
            assert dropped(bench, "moved") == 3
            commands.reassign()
            facts = await bench.facts(6)
            assert sorted(fact.response_id for fact in facts)[3:] == ["resp_10", "resp_11", "resp_12"]
        assert commands.committed == {0: 3, 1: 3}
        assert len(bench.asked) == 6

    asyncio.run(scenario())


@pytest.mark.parametrize("told", [True, False])
def test_a_command_that_the_former_owner_finished_is_not_performed_again(tmp_path: Path, told: bool) -> None:
    async def scenario() -> None:
        note = encode_note(0, [1, 3]) if told else "a foreign note"
        commands = MemoryCommands(committed={0: 0}, notes={0: note})
        commands.publish(*(poll(f"resp_{number}") for number in range(5)))
        async with calling(tmp_path, commands=commands) as bench:
            bench.server.script[:] = [any_response()(bench.server)]
            facts = await bench.facts(3 if told else 5)
            asked = ["resp_0", "resp_2", "resp_4"] if told else [f"resp_{number}" for number in range(5)]
            assert sorted(fact.response_id for fact in facts) == asked
            assert gauge(bench, "polls_taken_again_total") == (2 if told else 0)
        assert commands.committed == {0: 5}

    asyncio.run(scenario())


def test_a_merged_command_is_not_done_before_the_call_that_does_for_it(tmp_path: Path) -> None:
    """Otherwise a crash between the two would lose the cancel: the next owner would skip it and only poll."""

    async def scenario() -> None:
        commands = MemoryCommands()
        commands.publish(poll("resp_0"), cancel("resp_0"), poll("resp_1"))
        async with calling(tmp_path, commands=commands, concurrency=1, cap_per_s=0.1) as bench:
            bench.server.script[:] = [any_response()(bench.server)]
            await bench.facts(1)
            await eventually(lambda: commands.committed, 5, "a commit")
            assert (commands.committed, decode_note(0, commands.notes[0])) == ({0: 2}, frozenset())
            assert bench.asked == ["POST resp_0/cancel"]

    asyncio.run(scenario())


def test_a_webhooks_poll_is_made_while_a_timers_poll_of_the_same_response_is_on_the_wire(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with calling(tmp_path, server.stall, RUNNING, poll_timeout_ms=60_000, drain_ms=10) as bench:
            bench.server.script[1] = any_response("completed")(bench.server)
            bench.commands.publish(poll("resp_0"))
            await eventually(lambda: bench.asked == ["GET resp_0"], 5, "the timer's poll")
            bench.commands.publish(poll("resp_0", "webhook", 2))
            (fact,) = await bench.facts(1)
            assert (fact.command_id, fact.outcome) == ("resp_0/poll/2", "completed")

    asyncio.run(scenario())
