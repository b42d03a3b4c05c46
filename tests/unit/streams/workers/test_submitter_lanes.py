"""What the submitter does for the lanes of its account and model."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from schemas.jobs import AttemptAccepted, AttemptUnknown
from schemas.lanes import CreateFailed, ProbeClaimed
from streams.openai.provider import POLLED_MS
from streams.policy.lanes import FAILURES_MAX
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.submitting import VALID_MS, create, probing, submitting


def test_an_outage_costs_what_is_in_flight_when_the_fifth_failure_is_known(tmp_path: Path) -> None:
    concurrency, commands = 8, 60

    async def scenario() -> None:
        async with submitting(tmp_path, server.answer(503, {"error": {"code": "x"}}), concurrency=concurrency) as bench:
            bench.commands.publish(*(create(f"job_{number}") for number in range(commands)))
            facts = await bench.facts(commands)
            causes = Counter(fact.cause for fact in facts)
            assert causes == {"overloaded": bench.server.posts, "held": commands - bench.server.posts}
            assert {fact.held_for for fact in facts if fact.cause == "held"} == {"overloaded"}
            assert FAILURES_MAX <= bench.server.posts <= concurrency + FAILURES_MAX - 1

    asyncio.run(scenario())


def test_while_the_provider_is_silent_nothing_is_sent_that_may_be_paid(tmp_path: Path) -> None:
    async def scenario() -> None:
        seen, lost, back = (
            server.answer(200, server.response(metadata={})),
            server.close,
            server.answer(404, {"error": {}}),
        )
        accepted = server.answer(200, server.response(metadata={}))
        async with submitting(tmp_path, seen, lost, lost, server.html(502), back, accepted) as bench:
            await bench.provider.poll(server.RESPONSE_ID, "job_1")
            bench.now_ms[0] += POLLED_MS
            causes = list[str]()
            for attempt in range(1, 5):
                bench.commands.publish(create(attempt=attempt))
                fact = (await bench.facts(attempt))[-1]
                causes.append(getattr(fact, "code", fact.type))
            assert causes == ["attempt_unknown", "provider_silent", "provider_silent", "attempt_accepted"]
            assert bench.server.posts == 2

    asyncio.run(scenario())


def test_where_no_poll_was_ever_heard_silence_means_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path, server.close) as bench:
            bench.commands.publish(create(), create(attempt=2))
            assert [fact.type for fact in await bench.facts(2)] == ["attempt_unknown", "attempt_unknown"]
            assert bench.server.posts == 2

    asyncio.run(scenario())


def test_a_probe_that_waits_for_its_turn_past_its_time_is_not_sent_and_gives_the_turn_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with probing(tmp_path) as probe:
            probe.now_ms[0] += VALID_MS + 1
            probe.read_own_claim()
            (fact,) = await probe.bench.facts(1)
            assert (fact.cause, fact.code) == ("unsent", "command_expired")
            assert probe.bench.server.posts == 0
            assert probe.is_given_back()
            assert [type(each) for each in probe.written] == [ProbeClaimed, CreateFailed]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("told", "kind"), [("resp_é", AttemptAccepted), ("x" * 1_025, AttemptAccepted), (None, AttemptUnknown)]
)
def test_a_create_that_was_taken_under_no_usable_id_is_sent_once_with_an_alarm(
    told: str | None, kind: type[AttemptAccepted | AttemptUnknown], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path, server.answer(200, server.response(id=told))) as bench:
            bench.commands.publish(create())
            (fact,) = await bench.facts(1)
            assert isinstance(fact, kind)
            if isinstance(fact, AttemptAccepted):
                assert fact.end is not None
                assert (fact.response_id, fact.end.code, fact.end.said_by) == ("job_1/1", "unusable_id", "backstop")
            else:
                assert isinstance(fact, AttemptUnknown)
                assert fact.taken
            alarms = bench.registry.get_sample_value("backstop_openai_alarms_total", {"kind": "unusable_answer"})
            assert (alarms, bench.server.posts) == (1, 1)

    asyncio.run(scenario())
