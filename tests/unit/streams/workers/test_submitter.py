"""What the submitter sends, how often, and which commands it remembers."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from schemas.codec import encode
from schemas.dead_letters import DeadLetter
from schemas.jobs import AttemptAccepted, AttemptRejected
from streams.policy.limits import read_rules
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.memory_commands import MemoryCommands
from tests.unit.streams.workers.submitting import NOW_MS, OK, VALID_MS, create, submitting


def test_a_command_becomes_one_create_and_one_fact(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path) as bench:
            bench.commands.publish(create())
            (fact,) = await bench.facts(1)
            assert isinstance(fact, AttemptAccepted)
            assert fact.id == "job_1/1/create/accepted"
            assert (fact.response_id, fact.status, fact.sent_at_ms) == (server.RESPONSE_ID, "queued", NOW_MS)
            assert 18_000 <= fact.poll_at_ms - NOW_MS <= 22_000
            assert bench.server.posts == 1
            assert bench.commands.committed == {0: 1}
        assert not bench.commands.running

    asyncio.run(scenario())


TOLD = {"x-ratelimit-limit-tokens": "30000", "x-ratelimit-remaining-tokens": "12"}


@pytest.mark.parametrize(("rules", "told"), [("", None), ('[{"model": "m", "discover": true}]', (30_000, 12))])
def test_what_the_provider_tells_of_its_limits_is_in_the_fact_where_limits_apply(
    tmp_path: Path, rules: str, told: tuple[int, int] | None
) -> None:
    async def scenario() -> None:
        refusal = server.answer(429, {"error": {"code": "rate_limit_exceeded", "type": "tokens"}}, **TOLD)
        good = server.answer(200, server.response(metadata={}), **TOLD)
        async with submitting(tmp_path, good, refusal, rules=read_rules(rules)) as bench:
            bench.commands.publish(create("job_1"), create("job_2"))
            facts = await bench.facts(2)
            assert {type(fact) for fact in facts} == {AttemptAccepted, AttemptRejected}
            for fact in facts:
                limits = fact.limits
                assert (None if limits is None else (limits.tokens_per_min, limits.tokens_left)) == told
                assert (b"limits" in encode(fact)) == (told is not None)

    asyncio.run(scenario())


def test_nothing_is_sent_before_its_offset_is_committed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path) as bench:

            async def post_noted(writer: asyncio.StreamWriter) -> None:
                bench.commands.journal.append("post")
                await OK(writer)

            bench.server.script[:] = [post_noted]
            bench.commands.publish(create())
            await bench.facts(1)
            assert bench.commands.journal == ["take 0", "commit 1", "post"]

    asyncio.run(scenario())


def test_what_could_not_be_committed_is_not_sent_until_it_comes_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path, commands=MemoryCommands(refuse_commits=2)) as bench:
            bench.commands.publish(create())
            await bench.facts(1)
            assert bench.server.posts == 1
            assert bench.dropped("not_committed") == 2
            assert bench.commands.journal == ["take 0", "take 0", "take 0", "commit 1"]

    asyncio.run(scenario())


def test_a_command_that_was_published_twice_is_sent_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path) as bench:
            bench.commands.publish(create(), create())
            await bench.facts(1)
            bench.commands.publish(create(), create("job_2"))
            await bench.facts(2)
            assert bench.server.posts == 2
            assert bench.dropped("duplicate") == 2

    asyncio.run(scenario())


def test_after_a_restart_the_ids_are_read_back_from_the_topic(tmp_path: Path) -> None:
    async def scenario() -> None:
        commands = MemoryCommands(committed={0: 1})
        commands.publish(create(), at_ms=NOW_MS - 30_000)
        commands.publish(create(), create("job_2"), at_ms=NOW_MS)
        async with submitting(tmp_path, commands=commands) as bench:
            (fact,) = await bench.facts(1)
            assert fact.job_id == "job_2"
            assert bench.server.posts == 1
            assert bench.dropped("duplicate") == 1
            assert commands.read_backs == [(0, 1, NOW_MS - 180_000)]

    asyncio.run(scenario())


def test_a_reassignment_makes_it_read_back_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path) as bench:
            bench.commands.publish(create(), at_ms=NOW_MS)
            await bench.facts(1)
            # Another member had the partition meanwhile, and took job_2.
            bench.commands.publish(create("job_2"), at_ms=NOW_MS)
            bench.commands.committed[0] = 2
            bench.commands.reassign()
            bench.commands.publish(create("job_2"), create("job_3"), at_ms=NOW_MS)
            facts = await bench.facts(2)
            assert [fact.job_id for fact in facts] == ["job_1", "job_3"]
            assert bench.server.posts == 2

    asyncio.run(scenario())


def test_a_command_older_than_what_is_remembered_makes_it_read_further_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        hour_ms = 3_600_000
        commands = MemoryCommands(committed={0: 1})
        commands.publish(create(at_ms=NOW_MS - hour_ms), at_ms=NOW_MS - hour_ms)
        commands.publish(
            create(at_ms=NOW_MS - hour_ms), at_ms=NOW_MS
        )  # the fold restarts after an hour and repeats the command
        async with submitting(tmp_path, commands=commands) as bench:
            await bench.dropped_one("duplicate")
            assert bench.server.posts == 0
            assert commands.read_backs[-1] == (0, 1, NOW_MS - hour_ms - 30_000)
        assert bench.publisher.landed == []

    asyncio.run(scenario())


def test_a_command_older_than_can_be_remembered_is_dropped_in_silence(tmp_path: Path) -> None:
    async def scenario() -> None:
        commands = MemoryCommands(committed={0: 3})
        commands.publish(create("a"), create("b"), create("c"), at_ms=NOW_MS - 1_000)
        commands.publish(create("old", at_ms=NOW_MS - 900_000), at_ms=NOW_MS)
        async with submitting(tmp_path, commands=commands, memory_ids_max=2) as bench:
            await bench.dropped_one("unremembered")
            assert bench.server.posts == 0
        assert bench.publisher.landed == []

    asyncio.run(scenario())


def test_a_command_that_waited_too_long_is_rejected_and_not_sent(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path) as bench:
            bench.now_ms[0] = NOW_MS + VALID_MS + 1
            bench.commands.publish(create(), at_ms=NOW_MS)
            (fact,) = await bench.facts(1)
            assert isinstance(fact, AttemptRejected)
            assert (fact.cause, fact.code, fact.wait_ms) == ("unsent", "command_expired", 0)
            assert bench.server.posts == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (b"{", b"", "not_json"), (b'{"type":"create_response","v":9}', b"", "unknown_version"),
        (b'{"type":"create_response"}', b"", "invalid"), (create(), b"other", "wrong_key"),
    ],
)  # fmt: skip
def test_a_record_that_is_no_command_is_a_dead_letter(tmp_path: Path, value: Any, key: bytes, reason: str) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path) as bench:
            bench.commands.publish(value, key=key)
            bench.commands.publish(create("job_2"))
            facts = await bench.facts(2)
            letter = facts[0]
            assert isinstance(letter, DeadLetter)
            assert letter.reason == reason
            assert isinstance(facts[1], AttemptAccepted)
            assert bench.server.posts == 1

    asyncio.run(scenario())
