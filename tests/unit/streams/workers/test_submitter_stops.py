"""How many creates are in flight at once, and how the submitter ends."""

import asyncio
from pathlib import Path

import pytest

from backstop.runtime.process import failpoints
from schemas.jobs import AttemptAccepted
from tests.support.waiting import eventually
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.submitting import OK, create, submitting


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
