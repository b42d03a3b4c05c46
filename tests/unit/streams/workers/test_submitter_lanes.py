"""What the submitter does for the lanes of its account and model."""

import asyncio
from collections import Counter
from pathlib import Path

from schemas.lanes import CreateFailed, ProbeClaimed
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
