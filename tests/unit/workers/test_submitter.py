"""The submitter against a real HTTP server, with a group in memory: what is sent, how often, and what is said about it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from runtime import failpoints
from runtime.blobs import FolderBlobs, put_body
from schemas.base import BlobBody, InlineBody
from schemas.commands import CreateResponse
from schemas.dead_letters import DeadLetter
from schemas.jobs import AttemptAccepted, AttemptRejected, AttemptUnknown
from schemas.lanes import CreateFailed, LaneFact, ProbeClaimed
from streams.policy.lanes import FAILURES_MAX, PROBE_WAIT_MS
from streams.policy.looks import LookPolicy, Webhooks
from streams.workers.lanes import Lanes
from streams.workers.metrics import WorkerMetrics
from streams.workers.openai_client import OpenAIClient
from streams.workers.submitter import Submitter
from tests.support.memory_publisher import MemoryPublisher
from tests.support.waiting import eventually
from tests.unit.workers import misbehaving as server
from tests.unit.workers.memory_commands import MemoryCommands
from tests.unit.workers.misbehaving import Mischief, Server, serving

NOW_MS = 1_795_341_600_000
VALID_MS = 60_000
OK = server.answer(200, server.response())


def create(job_id: str = "job_1", attempt: int = 1, at_ms: int = NOW_MS, request: Any = None) -> CreateResponse:
    return CreateResponse(
        id=f"{job_id}/{attempt}/create", at_ms=at_ms, job_id=job_id, attempt=attempt, tenant="acme", model="m",
        request=request or InlineBody(value={"model": "m", "input": "Hi"}), not_after_ms=at_ms + VALID_MS,
    )  # fmt: skip


@dataclass
class Bench:
    """A submitter at work."""

    commands: MemoryCommands
    publisher: MemoryPublisher
    server: Server
    blobs: FolderBlobs
    registry: CollectorRegistry
    stop: asyncio.Event
    run: "asyncio.Task[None]"
    now_ms: list[int] = field(default_factory=lambda: [NOW_MS])
    blocked: list[int] = field(default_factory=list)

    async def facts(self, count: int) -> list[Any]:
        await eventually(lambda: len(self.publisher.acked) >= count, 5, f"{count} facts")
        return self.publisher.landed

    def dropped(self, reason: str) -> float:
        labels = {"worker": "submitter", "reason": reason}
        return self.registry.get_sample_value("backstop_commands_dropped_total", labels) or 0.0

    async def dropped_one(self, reason: str) -> None:
        await eventually(lambda: self.dropped(reason) == 1, 5, f"a command dropped as {reason}")


@asynccontextmanager
async def submitting(
    tmp_path: Path, *script: Mischief, commands: MemoryCommands | None = None, **options: Any
) -> AsyncIterator[Bench]:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    commands = commands or MemoryCommands()
    publisher, blobs, stop = MemoryPublisher(), FolderBlobs(tmp_path), asyncio.Event()
    now_ms, blocked = [NOW_MS], list[int]()
    async with serving(*(script or (OK,))) as state:
        client = OpenAIClient(
            base_url=state.base_url, api_key=SecretStr("sk-x"), metrics=metrics, create_timeout_ms=1_500
        )
        submitter = Submitter(
            group=commands, client=client, publisher=publisher, blobs=blobs, metrics=metrics,
            looks=Webhooks(LookPolicy()), inline_bytes_max=65_536, edge_blocked=blocked.append,
            **{"drain_ms": 2_000, "now_ms": lambda: now_ms[0], "lanes": Lanes(lambda: now_ms[0]), **options},
        )  # fmt: skip
        run = asyncio.create_task(submitter.run(stop))
        try:
            yield Bench(commands, publisher, state, blobs, registry, stop, run, now_ms, blocked)
        finally:
            stop.set()
            await asyncio.gather(run, return_exceptions=True)
            await client.close()


def test_a_command_becomes_one_create_and_one_fact(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path) as bench:
            bench.commands.publish(create())
            (fact,) = await bench.facts(1)
            assert isinstance(fact, AttemptAccepted)
            assert fact.id == "job_1/1/create/accepted"
            assert (fact.response_id, fact.status, fact.sent_at_ms) == (server.RESPONSE_ID, "queued", NOW_MS)
            assert 18_000 <= fact.look_at_ms - NOW_MS <= 22_000
            assert bench.server.posts == 1
            assert bench.commands.committed == {0: 1}
        assert not bench.commands.running

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
        )  # the fold came back after an hour, and said it again
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


def test_a_large_request_is_read_from_the_blob_store(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path) as bench:
            request = {"model": "m", "input": "x" * 1_000}
            bench.commands.publish(create(request=await put_body(bench.blobs, request, 10)))
            await bench.facts(1)
            assert bench.server.requests[0].json()["input"] == "x" * 1_000

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "code"),
    [(BlobBody(sha256="0" * 64, size_bytes=9), "blob_missing"), (InlineBody(value=[1]), "not_an_object")],
)
def test_an_unreadable_request_is_tried_again_or_fails_its_job_alone(tmp_path: Path, body: Any, code: str) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path) as bench:
            bench.commands.publish(create(request=body), create("job_2"))
            facts = {fact.job_id: fact for fact in await bench.facts(2)}
            assert (facts["job_1"].cause, facts["job_1"].code) == (
                "faulty" if code == "blob_missing" else "never",
                code,
            )
            assert isinstance(facts["job_2"], AttemptAccepted)
            assert bench.server.posts == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(("mischief", "reason"), [(server.close, "lost"), (server.stall, "timeout")])
def test_a_create_whose_answer_nobody_heard_is_unknown_and_not_repeated(
    tmp_path: Path, mischief: Mischief, reason: str
) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path, mischief) as bench:
            bench.commands.publish(create())
            (fact,) = await bench.facts(1)
            assert isinstance(fact, AttemptUnknown)
            assert fact.reason.startswith(reason)
            assert bench.server.posts == 1
            assert bench.registry.get_sample_value("backstop_orphans_total") == 1

    asyncio.run(scenario())


def test_a_refused_key_ends_the_job_with_the_providers_code_and_raises_an_alarm(tmp_path: Path) -> None:
    async def scenario() -> None:
        refusal = server.answer(401, {"error": {"message": "no", "type": "x", "code": "invalid_api_key"}})
        async with submitting(tmp_path, refusal) as bench:
            bench.commands.publish(create())
            (fact,) = await bench.facts(1)
            assert (fact.cause, fact.code, fact.http_status) == ("account", "invalid_api_key", 401)
            alarms = bench.registry.get_sample_value("backstop_openai_alarms_total", {"kind": "credentials"})
            assert alarms == 1

    asyncio.run(scenario())


def test_an_edge_block_is_told_to_whoever_keeps_the_rate(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path, server.html(403)) as bench:
            bench.commands.publish(create())
            (fact,) = await bench.facts(1)
            assert (fact.cause, fact.code) == ("limited", "edge_block")
            assert bench.blocked == [0]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (b"{", b"", "not_json"), (b'{"type":"create_response","v":9}', b"", "unknown_version"),
        (b'{"type":"create_response"}', b"", "invalid"), (create(), b"other", "wrong_key"),
    ],
)  # fmt: skip
def test_a_record_that_is_no_command_is_set_aside(tmp_path: Path, value: Any, key: bytes, reason: str) -> None:
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


def test_a_slow_create_does_not_keep_the_others_from_being_sent(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path, server.stall, OK, concurrency=2) as bench:
            bench.commands.publish(*(create(f"job_{number}") for number in range(10)))
            facts = await bench.facts(9)
            assert {fact.job_id for fact in facts} == {f"job_{number}" for number in range(10)} - {"job_0"}

    asyncio.run(scenario())


def test_no_more_is_taken_than_there_are_free_slots(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path, server.stall, concurrency=3, drain_ms=0) as bench:
            bench.commands.publish(*(create(f"job_{number}") for number in range(10)))
            await eventually(lambda: bench.server.posts == 3, 5, "three creates in flight")
            assert bench.commands.committed == {0: 3}

    asyncio.run(scenario())


def test_while_the_broker_is_away_the_fact_is_kept_and_told_when_it_is_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path) as bench:
            bench.publisher.away = True
            bench.commands.publish(create())

            def retried() -> float | None:
                return bench.registry.get_sample_value("backstop_report_retries_total", {"worker": "submitter"})

            await eventually(lambda: (retried() or 0) >= 2, 5, "two reports in vain")
            bench.publisher.away = False
            (fact,) = await bench.facts(1)
            assert isinstance(fact, AttemptAccepted)
            assert bench.server.posts == 1

    asyncio.run(scenario())


def test_an_outage_costs_what_is_in_flight_when_the_fifth_failure_is_known(tmp_path: Path) -> None:
    concurrency, commands = 8, 60

    async def scenario() -> None:
        async with submitting(tmp_path, server.answer(503, {"error": {"code": "x"}}), concurrency=concurrency) as bench:
            bench.commands.publish(*(create(f"job_{number}") for number in range(commands)))
            facts = await bench.facts(commands)
            causes = Counter(fact.cause for fact in facts)
            assert causes == {"overloaded": bench.server.posts, "held": commands - bench.server.posts}
            assert FAILURES_MAX <= bench.server.posts <= concurrency + FAILURES_MAX - 1

    asyncio.run(scenario())


def test_a_probe_that_waits_for_its_turn_past_its_time_is_not_sent_and_gives_the_turn_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        now_ms, written = [NOW_MS], list[LaneFact]()
        lanes = Lanes(lambda: now_ms[0])
        lanes.failed("m", "c", "account", "x")
        lanes.join(written.append)
        now_ms[0] += PROBE_WAIT_MS
        async with submitting(tmp_path, lanes=lanes, now_ms=lambda: now_ms[0]) as bench:
            bench.commands.publish(create())
            await eventually(lambda: bool(written), 5, "a claim")
            now_ms[0] += VALID_MS
            lanes.read(written[0], now_ms[0])
            (fact,) = await bench.facts(1)
            assert (fact.cause, fact.code) == ("unsent", "command_expired")
            assert bench.server.posts == 0
            closed = lanes.of("m").closed
            assert closed is not None
            assert closed.probing is None
            assert [type(each) for each in written] == [ProbeClaimed, CreateFailed]

    asyncio.run(scenario())


def test_a_stop_waits_for_what_is_in_flight(tmp_path: Path) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def held(writer: asyncio.StreamWriter) -> None:
            await gate.wait()
            await OK(writer)

        async with submitting(tmp_path, held) as bench:
            bench.commands.publish(create())
            await eventually(lambda: bench.server.posts == 1, 5, "a create in flight")
            bench.stop.set()
            gate.set()
            await bench.run
            assert [type(fact) for fact in bench.publisher.acked] == [AttemptAccepted]
            assert not bench.commands.running

    asyncio.run(scenario())


def test_a_stop_does_not_wait_for_ever(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path, server.stall, drain_ms=100) as bench:
            bench.commands.publish(create())
            await eventually(lambda: bench.server.posts == 1, 5, "a create in flight")
            bench.publisher.away = True
            bench.stop.set()
            async with asyncio.timeout(9):
                await bench.run
            assert bench.publisher.landed == []

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["submitter.taken", "submitter.committed", "submitter.posted", "submitter.reported"])
def test_a_bug_ends_the_worker(tmp_path: Path, name: str) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path) as bench:
            bench.commands.publish(create())
            with pytest.raises(failpoints.FailpointError, match=name):
                await bench.run
            assert not bench.commands.running

    failpoints.arm(f"{name}=raise")
    try:
        asyncio.run(scenario())
    finally:
        failpoints.arm("")
