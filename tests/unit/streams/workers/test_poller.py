"""The poller against a real HTTP server, with a group in memory: its calls, their number and order, and its facts."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from backstop.runtime.blobs import FolderBlobs, get_body
from backstop.runtime.process import failpoints
from schemas.base import BlobBody, InlineBody, Terms, Usage
from schemas.dead_letters import DeadLetter
from schemas.responses import PollFailed, ResponseObserved
from streams.workers.offset_notes import decode_note
from streams.workers.rate import HASTE_CALLS
from tests.support.waiting import eventually
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.calling import DONE, NOW_MS, RUNNING, any_response, calling, cancel, poll
from tests.unit.streams.workers.memory_commands import MemoryCommands
from tests.unit.streams.workers.misbehaving import RESPONSE_ID, Mischief


def test_a_poll_becomes_an_observation_with_the_object_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with calling(tmp_path, DONE) as bench:
            bench.commands.publish(poll())
            (fact,) = await bench.facts(1)
            assert isinstance(fact, ResponseObserved)
            assert fact == ResponseObserved(
                id=f"{RESPONSE_ID}/poll/1/observed", at_ms=NOW_MS, response_id=RESPONSE_ID,
                command_id=f"{RESPONSE_ID}/poll/1", outcome="completed", raw_status="completed",
                response=InlineBody(value=server.completed()), job_id="job_1", attempt=1, tenant="acme",
                usage=Usage(
                    input_tokens=36, output_tokens=87, total_tokens=123, cached_tokens=5, reasoning_tokens=64,
                    cache_write_tokens=0,
                ),
                provider_created_at_ms=1_795_341_600_000, provider_ended_at_ms=1_795_341_660_000,
                next_poll_at_ms=fact.next_poll_at_ms, terms=Terms(model="gpt-6-astra"),
            )  # fmt: skip
            assert bench.asked == [f"GET {RESPONSE_ID}"]
        assert bench.commands.committed == {0: 1}

    asyncio.run(scenario())


def test_a_large_object_goes_to_the_blob_store(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with calling(tmp_path, DONE, inline_bytes_max=100) as bench:
            bench.commands.publish(poll())
            (fact,) = await bench.facts(1)
            assert isinstance(fact.response, BlobBody)
            assert await get_body(bench.blobs, fact.response) == server.completed()

    asyncio.run(scenario())


def test_an_object_that_cannot_be_stored_is_asked_for_again_and_ends_no_worker(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "blobs").write_text("a file stands where the folder should be")
        blobs = FolderBlobs(tmp_path / "blobs")
        async with calling(tmp_path, *[DONE] * 9, blobs=blobs, inline_bytes_max=100, tries_max=3) as bench:
            bench.commands.publish(poll())
            (fact,) = await bench.facts(1)
            assert (type(fact), fact.reason) == (PollFailed, "blob_not_stored")
            assert len(bench.asked) == 3
            assert not bench.run.done()
            alarms = bench.registry.get_sample_value("backstop_openai_alarms_total", {"kind": "blob_not_stored"})
            assert alarms == 3

    asyncio.run(scenario())


def test_an_object_truncated_within_an_emoji_is_still_a_result(tmp_path: Path) -> None:
    async def scenario() -> None:
        body = server.completed()
        body["output"][0]["content"][0]["text"] = "\ud83d"
        async with calling(tmp_path, server.answer(200, json.dumps(body).encode())) as bench:
            bench.commands.publish(poll())
            (fact,) = await bench.facts(1)
            assert fact.outcome == "completed"
            assert fact.response.value["output"][0]["content"][0]["text"] == "\ufffd"

    asyncio.run(scenario())


def test_an_object_that_cannot_be_stored_is_a_failed_poll_and_no_crash(tmp_path: Path) -> None:
    async def scenario() -> None:
        deep: Any = "x"
        for _ in range(400):
            deep = [deep]
        async with calling(tmp_path, server.answer(200, server.completed(tools=deep))) as bench:
            bench.commands.publish(poll())
            (fact,) = await bench.facts(1)
            assert isinstance(fact, PollFailed)
            assert fact.reason.startswith("unstorable_object")

    asyncio.run(scenario())


def test_a_running_response_says_when_to_poll_again_and_is_not_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with calling(tmp_path) as bench:
            bench.commands.publish(poll())
            (fact,) = await bench.facts(1)
            assert (fact.outcome, fact.raw_status, fact.response) == ("running", "in_progress", None)
            assert 27_000 <= fact.next_poll_at_ms - NOW_MS <= 33_000

    asyncio.run(scenario())


def test_of_a_response_one_call_waits_and_does_what_all_of_them_ask_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        commands = MemoryCommands()
        commands.publish(poll("resp_a"), poll("resp_b"), poll("resp_b", number=2), poll("resp_b", "webhook", 3))
        commands.publish(cancel("resp_a"), poll("resp_a", number=2), poll("resp_b", number=4))
        async with calling(tmp_path, commands=commands, concurrency=1) as bench:
            bench.server.script[:] = [any_response("completed")(bench.server)]
            bench.rate.object(300)  # so that all of them wait
            told, _ = await bench.facts(2)
            assert told.id.startswith("resp_b/poll/3")
            await eventually(lambda: commands.committed == {0: 7}, 5, "the commit of all")
            assert bench.asked == ["GET resp_b", "POST resp_a/cancel"]
            merged = {"worker": "poller", "reason": "merged"}
            assert bench.registry.get_sample_value("backstop_commands_dropped_total", merged) == 5

    asyncio.run(scenario())


def test_after_a_webhook_in_vain_the_next_polls_come_after_one_two_and_four_seconds(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with calling(tmp_path) as bench:
            waits = []
            for number in range(1, 4):
                bench.commands.publish(poll(reason="webhook" if number == 1 else "timer", number=number))
                waits.append((await bench.facts(number))[-1].next_poll_at_ms - NOW_MS)
            for wait, about_ms in zip(waits, (1_000, 2_000, 4_000), strict=True):
                assert 0.9 * about_ms - 1 <= wait <= 1.1 * about_ms

    asyncio.run(scenario())


def test_the_provider_may_ask_for_a_longer_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        slow = server.answer(200, server.response(status="queued"), openai_poll_after_ms="90000")
        async with calling(tmp_path, slow) as bench:
            bench.commands.publish(poll())
            (fact,) = await bench.facts(1)
            assert fact.next_poll_at_ms == NOW_MS + 90_000

    asyncio.run(scenario())


def test_a_404_is_an_observation(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with calling(tmp_path, server.answer(404, {"error": {"message": "not found"}})) as bench:
            bench.commands.publish(poll())
            (fact,) = await bench.facts(1)
            assert (fact.outcome, fact.response) == ("missing", None)
            assert len(bench.asked) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("mischief", "reason"),
    [
        (server.html(502), "http_502"), (server.close, "lost"), (server.answer(500, {"error": "no"}), "http_500"),
    ],
)  # fmt: skip
def test_a_passing_fault_is_asked_again_a_few_times_and_then_told(
    tmp_path: Path, mischief: Mischief, reason: str
) -> None:
    async def scenario() -> None:
        async with calling(tmp_path, mischief) as bench:
            bench.commands.publish(poll())
            (fact,) = await bench.facts(1)
            assert isinstance(fact, PollFailed)
            assert fact.reason.startswith(reason)
            assert fact.next_poll_at_ms > NOW_MS
            assert len(bench.asked) == 3
            assert (bench.counted("asked_again"), bench.counted("failed")) == (2, 1)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("mischief", "code", "said"),
    [
        (server.answer(200, {}), "no_response_object", None),
        (server.answer(200, server.completed(object="x")), "no_response_object", None),
        (server.answer(200, server.response(object="list")), "no_response_object", None),
        (server.answer(400, {"detail": "no"}), "http_400", "no"),
        (server.html(404), "http_404", "<html>Attention Required</html>"),
    ],
)  # fmt: skip
def test_a_refusal_is_asked_again_a_few_times_and_then_told_with_its_words(
    tmp_path: Path, mischief: Mischief, code: str, said: str | None
) -> None:
    async def scenario() -> None:
        async with calling(tmp_path, mischief) as bench:
            bench.commands.publish(poll())
            (fact,) = await bench.facts(1)
            assert isinstance(fact, ResponseObserved)
            assert (fact.outcome, fact.code, fact.message) == ("missing", code, said)
            assert fact.next_poll_at_ms > NOW_MS
            assert len(bench.asked) == 3
            assert (bench.counted("asked_again"), bench.counted("refused")) == (2, 1)

    asyncio.run(scenario())


def test_a_fault_that_passes_is_not_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with calling(tmp_path, server.html(502), server.stall, DONE) as bench:
            bench.commands.publish(poll())
            (fact,) = await bench.facts(1)
            assert fact.outcome == "completed"

    asyncio.run(scenario())


def test_an_unknown_status_is_told_with_its_object_and_an_alarm(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with calling(tmp_path, server.answer(200, server.completed() | {"status": "of_tomorrow"})) as bench:
            bench.commands.publish(poll())
            (fact,) = await bench.facts(1)
            assert isinstance(fact, ResponseObserved)
            assert (fact.outcome, fact.raw_status) == ("odd", "of_tomorrow")
            assert fact.response is not None
            assert len(bench.asked) == 1
            assert bench.registry.get_sample_value("backstop_openai_alarms_total", {"kind": "unknown_status"}) == 1

    asyncio.run(scenario())


def test_a_refused_key_raises_an_alarm_and_polls_again_later(tmp_path: Path) -> None:
    async def scenario() -> None:
        refusal = server.answer(401, {"error": {"message": "no", "code": "invalid_api_key"}})
        async with calling(tmp_path, refusal) as bench:
            bench.commands.publish(poll())
            (fact,) = await bench.facts(1)
            assert isinstance(fact, PollFailed)
            assert fact.reason == "refused: invalid_api_key"
            assert len(bench.asked) == 1
            assert bench.registry.get_sample_value("backstop_openai_alarms_total", {"kind": "credentials"}) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "objection", [server.html(403), server.html(429), server.answer(429, {"error": {}})], ids=["403", "429 edge", "429"]
)
def test_an_objection_counts_against_the_rate_and_any_other_answer_for_it(tmp_path: Path, objection: Mischief) -> None:
    async def scenario() -> None:
        for script, halved in (((objection,) * HASTE_CALLS, True), ((server.html(502),), False)):
            commands = MemoryCommands()
            commands.publish(*(poll(f"resp_{number}") for number in range(HASTE_CALLS)))
            async with calling(tmp_path, *script, RUNNING, commands=commands) as bench:
                bench.server.script[-1] = any_response()(bench.server) if halved else script[0]
                await bench.facts(HASTE_CALLS)
                limit = bench.registry.get_sample_value("backstop_poll_rate_limit")
                assert limit == bench.rate.per_s == (500 if halved else 1_000)

    asyncio.run(scenario())


def test_retry_after_silences_all_polls(tmp_path: Path) -> None:
    async def scenario() -> None:
        objection = server.answer(429, {"error": {}}, retry_after="0.7")
        async with calling(tmp_path, objection, RUNNING, concurrency=1) as bench:
            bench.server.script[1] = any_response()(bench.server)
            loop = asyncio.get_running_loop()
            started_s = loop.time()
            bench.commands.publish(poll(), poll("resp_b"))
            await bench.facts(2)
            assert loop.time() - started_s >= 0.7
            assert len(bench.asked) == 3

    asyncio.run(scenario())


def test_a_long_retry_after_ends_the_poll_and_says_when(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with calling(tmp_path, server.answer(429, {"error": {}}, retry_after="600")) as bench:
            bench.commands.publish(poll())
            (fact,) = await bench.facts(1)
            assert isinstance(fact, PollFailed)
            assert fact.next_poll_at_ms == NOW_MS + 600_000

    asyncio.run(scenario())


@pytest.mark.parametrize("status", ["cancelled", "completed", "in_progress", "queued"])
def test_a_cancel_that_is_answered_is_an_observation(tmp_path: Path, status: str) -> None:
    async def scenario() -> None:
        async with calling(tmp_path, server.answer(200, server.response(status=status))) as bench:
            bench.commands.publish(cancel())
            (fact,) = await bench.facts(1)
            assert fact.raw_status == status
            assert bench.asked == [f"POST {RESPONSE_ID}/cancel"]

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [400, 404, 409])
def test_a_cancel_that_is_declined_becomes_a_poll(tmp_path: Path, status: int) -> None:
    async def scenario() -> None:
        async with calling(tmp_path, server.answer(status, {"message": "no"}), DONE) as bench:
            bench.commands.publish(cancel())
            (fact,) = await bench.facts(1)
            assert (fact.outcome, fact.command_id) == ("completed", f"{RESPONSE_ID}/cancel")
            assert bench.asked == [f"POST {RESPONSE_ID}/cancel", f"GET {RESPONSE_ID}"]

    asyncio.run(scenario())


def test_a_stalled_poll_delays_no_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        # The stalled poll times out after a minute, far beyond the 8 s that `facts` waits for the others.
        async with calling(tmp_path, server.stall, RUNNING, poll_timeout_ms=60_000, drain_ms=10) as bench:
            bench.server.script[1] = any_response()(bench.server)
            bench.commands.publish(poll("stalled"))
            await eventually(lambda: bench.asked == ["GET stalled"], 8, "the poll that stalls")
            bench.commands.publish(*(poll(f"resp_{number}") for number in range(50)))
            facts = await bench.facts(50)
            assert {fact.response_id for fact in facts} == {f"resp_{number}" for number in range(50)}
            # Later offsets are finished but not committed: a crash would lose the stalled one.
            await eventually(lambda: len(decode_note(0, bench.commands.notes.get(0, ""))) == 50, 8, "the note")
            assert bench.commands.committed == {0: 0}

    asyncio.run(scenario())


def test_webhooks_due_polls_and_cancels_take_turns(tmp_path: Path) -> None:
    async def scenario() -> None:
        commands = MemoryCommands()
        commands.publish(poll("timer"), cancel("cancel"), poll("claim", "claim"), poll("webhook", "webhook"))
        async with calling(tmp_path, commands=commands, concurrency=1, cap_per_s=20.0) as bench:
            bench.server.script[:] = [any_response()(bench.server)]
            bench.rate.object(300)  # so that all of them wait
            facts = await bench.facts(4)
            assert [fact.response_id for fact in facts] == ["webhook", "timer", "claim", "cancel"]

    asyncio.run(scenario())


def test_offsets_are_committed_after_their_facts_are_acknowledged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with calling(tmp_path) as bench:
            bench.publisher.hold()
            bench.commands.publish(poll())
            await eventually(lambda: len(bench.publisher.landed) == 1, 5, "a fact on its way")
            assert bench.commands.committed.get(0, 0) == 0  # An interval may have passed: a commit of nothing.
            bench.publisher.release()
            await eventually(lambda: bench.commands.committed == {0: 1}, 5, "the commit")

    asyncio.run(scenario())


def test_a_record_that_is_no_command_is_a_dead_letter_and_passed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with calling(tmp_path) as bench:
            bench.commands.publish(b'{"type": "other"}')
            bench.commands.publish(poll())
            facts = await bench.facts(2)
            assert {type(fact) for fact in facts} == {DeadLetter, ResponseObserved}
        assert bench.commands.committed == {0: 2}

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["poller.taken", "poller.answered", "poller.reported"])
def test_a_bug_ends_the_worker_and_commits_nothing(tmp_path: Path, name: str) -> None:
    async def scenario() -> None:
        async with calling(tmp_path) as bench:
            bench.commands.publish(poll())
            with pytest.raises(failpoints.FailpointError, match=name):
                await bench.run
            assert bench.commands.committed.get(0, 0) == 0  # An interval may have passed: a commit of nothing.
            assert not bench.commands.running

    failpoints.arm(f"{name}=raise")
    try:
        asyncio.run(scenario())
    finally:
        failpoints.arm("")
