"""Submitter and caller as processes, on a real broker, against the stand-in for OpenAI: killed, frozen, doubled, moved.

What counts is the ledger of the stand-in: the creates that it accepted, by job and attempt.
"""

import asyncio
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backstop.dev.broker import Broker, LocalKafka, Owned
from schemas.commands import CancelResponse, RetrieveResponse
from schemas.jobs import AttemptAccepted
from schemas.responses import ResponseObserved
from tests.kafka.commands_rig import (
    WITHIN_S,
    Rig,
    died,
    ended,
    rigged,
    run,
)
from tests.kafka.worker_child import work
from tests.support.waiting import eventually


@pytest.fixture
def rig(broker: Owned, prefix: str, tmp_path: Path) -> Callable[..., Any]:
    def make(**options: Any) -> Any:
        return rigged(broker.bootstrap, prefix, tmp_path, **options)

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failpoint", "creates", "facts"),
    [
        pytest.param("submitter.tail.reading", 1, 1, marks=pytest.mark.long),
        pytest.param("submitter.taken", 1, 1, marks=pytest.mark.long),  # not committed: the command comes again
        # Committed and not sent: lost, and the job's own timer finds that out.
        pytest.param("submitter.committed", 0, 0, marks=pytest.mark.long),
        pytest.param("submitter.posted", 0, 0, marks=pytest.mark.long),
        ("submitter.answered", 1, 0),  # sent and not told: never sent again
        pytest.param("submitter.reported", 1, 1, marks=pytest.mark.long),
    ],
)
def test_a_submitter_killed_between_any_two_steps_never_creates_twice(
    rig: Callable[..., Any], failpoint: str, creates: int, facts: int
) -> None:
    async def scenario() -> None:
        async with rig() as world:
            command = world.create("job_1")
            with world.worker(f"{failpoint}=kill") as doomed:
                await world.publish(command)
                assert await died(doomed, f"death at {failpoint}") == signal.SIGKILL
            with world.worker() as successor:
                # The fold comes back from a crash of its own and says the same once more.
                await world.publish(command, world.create("after"))
                await eventually(lambda: _has(world, "after"), WITHIN_S, "the command after it")
                if creates:
                    await eventually(lambda: _created(world, "job_1"), WITHIN_S, "the command itself")
                await ended(successor)
            assert (await world.creates())["job_1"] == creates
            assert sum(fact.job_id == "job_1" for fact in await world.facts("jobs")) == facts

    run(scenario())


async def _has(world: Rig, job_id: str) -> bool:
    return job_id in await world.accepted()


async def _created(world: Rig, job_id: str) -> bool:
    return (await world.creates())[job_id] > 0


@pytest.mark.long
def test_a_command_published_again_and_again_is_created_once_even_by_the_next_process(rig: Callable[..., Any]) -> None:
    async def scenario() -> None:
        async with rig() as world:
            commands = [world.create(f"job_{number}") for number in range(20)]
            for number in range(3):
                with world.worker() as worker:
                    marker = world.create(f"marker_{number}")
                    await world.publish(*commands, *commands)
                    await world.publish(*commands, marker)
                    await eventually(partial(_has, world, marker.job_id), WITHIN_S, "the marker")
                    await eventually(lambda: _all(world, 20), WITHIN_S, "all accepted")
                    await ended(worker)
            creates = await world.creates()
            assert set(creates.values()) == {1}
            assert len(creates) == 23
            assert not any(line["repeat"] for line in await world.ledger("creates"))

    run(scenario())


async def _all(world: Rig, count: int) -> bool:
    return len(await world.accepted()) >= count


@pytest.mark.slow
@pytest.mark.long
def test_submitters_that_come_and_go_under_load_create_everything_once(rig: Callable[..., Any]) -> None:
    async def scenario() -> None:
        async with rig() as world:
            count = 240
            with world.worker() as first:
                await world.publish(world.create("warm"))
                await eventually(lambda: _has(world, "warm"), WITHIN_S, "a first create")
                loading = asyncio.create_task(_load(world, range(count), gap_s=0.02))
                with world.worker() as second:
                    await eventually(lambda: _all(world, count // 4), WITHIN_S, "a quarter")
                    await ended(first)
                    with world.worker() as third:
                        await eventually(lambda: _all(world, 3 * count // 4), 30, "three quarters")
                        await ended(second)
                        await loading
                        await eventually(lambda: _all(world, count + 1), 30, "all")
                        await ended(third)
            creates = await world.creates()
            assert set(creates.values()) == {1}
            assert len(creates) == count + 1

    run(scenario())


@pytest.mark.slow
@pytest.mark.long
def test_submitters_killed_and_frozen_under_load_create_nothing_twice(rig: Callable[..., Any]) -> None:
    async def scenario() -> None:
        async with rig() as world:
            count = 240
            with world.worker() as frozen, world.worker() as killed, world.worker() as steady:
                await world.publish(world.create("warm"))
                await eventually(lambda: _has(world, "warm"), WITHIN_S, "a first create")
                loading = asyncio.create_task(_load(world, range(count), gap_s=0.03))
                await eventually(lambda: _all(world, count // 6), 30, "a sixth")
                frozen.send_signal(signal.SIGSTOP)
                await eventually(lambda: _all(world, count // 3), 30, "a third")
                killed.kill()
                await eventually(lambda: _all(world, count // 2), 30, "half")
                frozen.send_signal(signal.SIGCONT)
                await loading
                marker = world.create("marker")
                await world.publish(marker)
                await eventually(lambda: _has(world, "marker"), 30, "the marker")
                await ended(frozen)
                await ended(steady)
            creates = await world.creates()
            assert max(creates.values()) == 1
            # Only what was committed and on its way in the one that was killed may be missing.
            assert len(creates) >= count - 64

    run(scenario())


async def _load(world: Rig, numbers: Sequence[int], gap_s: float) -> None:
    """Commands at a steady pace, each tenth one twice."""
    for number in numbers:
        command = world.create(f"job_{number}")
        await world.publish(command)
        if number % 10 == 0:
            await world.publish(command)
        await asyncio.sleep(gap_s)


@pytest.mark.slow
@pytest.mark.parametrize(
    "successor_is_gone",
    [pytest.param(False, marks=pytest.mark.long), True],
    ids=["the successor is there", "the successor has left again"],
)
def test_a_submitter_that_wakes_up_between_take_and_commit_sends_nothing(
    rig: Callable[..., Any], successor_is_gone: bool
) -> None:
    async def scenario() -> None:
        async with rig() as world:
            with world.worker("submitter.taken=stop") as zombie:
                await world.publish(world.create("job_1"))
                await eventually(lambda: _is_stopped(zombie.pid), WITHIN_S, "the freeze")
                with world.worker() as successor:
                    await eventually(lambda: _has(world, "job_1"), 30, "the successor's create")
                    if successor_is_gone:
                        await ended(successor)
                    zombie.send_signal(signal.SIGCONT)
                    await world.publish(*(world.create(f"after_{number}") for number in range(12)))
                    await eventually(lambda: _all(world, 13), 30, "what came after")
                    await ended(zombie)
            creates = await world.creates()
            assert set(creates.values()) == {1}
            assert len(creates) == 13

    run(scenario())


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.slow
@pytest.mark.parametrize(
    "failpoint",
    [
        pytest.param("poller.taken", marks=pytest.mark.long),
        "poller.answered",
        pytest.param("poller.reported", marks=pytest.mark.long),
    ],
)
def test_a_poller_killed_between_any_two_steps_still_tells_what_it_saw(rig: Callable[..., Any], failpoint: str) -> None:
    async def scenario() -> None:
        async with rig(run_s=0) as world:
            response_id = await _running(world)
            poll = RetrieveResponse(
                id=f"{response_id}/poll/1", at_ms=world.now_ms(), response_id=response_id, reason="timer",
                accepted_at_ms=world.now_ms(), polls=1,
            )  # fmt: skip
            with world.worker(f"{failpoint}=kill") as doomed:
                await world.publish(poll)
                assert await died(doomed, f"death at {failpoint}") == signal.SIGKILL
            with world.worker() as successor:

                async def observed(commands: int) -> list[Any]:
                    facts = await world.facts("responses")
                    return facts if len({fact.command_id for fact in facts}) == commands else []

                await eventually(lambda: observed(1), WITHIN_S, "the observation")
                await world.publish(poll.model_copy(update={"id": f"{response_id}/poll/2", "polls": 2}))
                facts = await eventually(lambda: observed(2), WITHIN_S, "both observations")
                await ended(successor)
            assert all(isinstance(fact, ResponseObserved) for fact in facts)
            assert {(fact.outcome, fact.job_id, fact.attempt, fact.tenant) for fact in facts} == {
                ("completed", "job_1", 1, "acme")
            }

    run(scenario())


async def _running(world: Rig) -> str:
    """A response that the provider has accepted, by way of a submitter that ended well."""
    with world.worker() as worker:
        await world.publish(world.create("job_1"))
        await eventually(lambda: _has(world, "job_1"), WITHIN_S, "an accepted create")
        await ended(worker)
    (fact,) = [fact for fact in await world.facts("jobs") if isinstance(fact, AttemptAccepted)]
    return str(fact.response_id)


def test_polls_and_cancels_against_a_provider_that_misbehaves(rig: Callable[..., Any]) -> None:
    faults = {
        "poll_404": "missing", "poll_html_200": "completed", "poll_500": "completed", "poll_truncated": "completed",
        "poll_another_id": "completed", "poll_html_403": "completed", "poll_429": "completed",
        "poll_close": "completed", "poll_unknown_status": "odd",
    }  # fmt: skip

    async def scenario() -> None:
        async with rig(run_s=0) as world:
            with world.worker() as worker:
                await world.publish(*(world.create(name) for name in faults))
                await eventually(lambda: _all(world, len(faults)), WITHIN_S, "all accepted")
                ids = {fact.job_id: fact.response_id for fact in await world.facts("jobs")}
                for fault, job_id in zip(faults, faults, strict=True):
                    await world.aim(fault=fault, job=job_id)
                await world.publish(
                    *(
                        RetrieveResponse(
                            id=f"{ids[name]}/poll/1",
                            at_ms=world.now_ms(),
                            response_id=ids[name],
                            reason="webhook",
                            accepted_at_ms=world.now_ms(),
                        )
                        for name in faults
                    )
                )

                async def seen() -> list[Any]:
                    facts = await world.facts("responses")
                    return facts if len(facts) >= len(faults) else []

                facts = {fact.response_id: fact for fact in await eventually(seen, 25, "a fact for each look")}
                outcomes = {name: getattr(facts[ids[name]], "outcome", None) for name in faults}
                assert outcomes == faults
                assert facts[ids["poll_unknown_status"]].raw_status == "paused"

                done = ids["poll_500"]
                await world.aim(fault="cancel_409", job="poll_500")
                await world.publish(
                    CancelResponse(id=f"{done}/cancel", at_ms=world.now_ms(), response_id=done, job_id="poll_500")
                )

                async def told() -> list[Any]:
                    return [fact for fact in await world.facts("responses") if fact.command_id == f"{done}/cancel"]

                (fact,) = await eventually(told, WITHIN_S, "what became of the cancel")
                assert fact.outcome == "completed"
                await ended(worker)

    run(scenario())


@pytest.mark.long
def test_a_fact_waits_for_a_broker_that_is_away(local_kafka: LocalKafka, prefix: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        broker = Broker(local_kafka, tmp_path / "kafka")
        await asyncio.to_thread(broker.start)
        try:
            async with rigged(broker.bootstrap, prefix, tmp_path) as world:
                await world.aim(fault="create_accept_slow", arg="2")
                with world.worker() as worker:
                    await world.publish(world.create("job_1"))
                    await eventually(lambda: _created(world, "job_1"), WITHIN_S, "the create")
                    await asyncio.to_thread(broker.restart)
                    await eventually(lambda: _has(world, "job_1"), 40, "the fact, after the broker is back")
                    await world.publish(world.create("job_2"))
                    await eventually(lambda: _has(world, "job_2"), 40, "life after it")
                    await ended(worker)
                assert set((await world.creates()).values()) == {1}
        finally:
            await asyncio.to_thread(broker.stop)

    run(scenario())


def test_a_command_is_created_in_milliseconds(rig: Callable[..., Any]) -> None:
    async def scenario() -> None:
        async with rig() as world:
            stop = asyncio.Event()
            working = asyncio.create_task(work(world.settings, stop))
            await world.publish(world.create("warm"))
            await eventually(lambda: _has(world, "warm"), WITHIN_S, "the first create")
            waits_ms: list[float] = []
            for number in range(60):
                before_s = time.monotonic()
                await world.publish(world.create(f"job_{number}"))
                await eventually(partial(_created_last, world, f"job_{number}"), 5, "a create", poll_s=0.002)
                waits_ms.append((time.monotonic() - before_s) * 1_000)
            stop.set()
            await working
            p50_ms = statistics.median(waits_ms)
            print(f"record published to create accepted: p50 {p50_ms:.0f} ms, worst {max(waits_ms):.0f} ms")
            assert p50_ms < 250  # the aim is 30; shared machines are slow, and a broken path takes seconds

    run(scenario())


async def _created_last(world: Rig, name: str) -> bool:
    return any(line["job"] == name for line in await world.ledger("creates"))
