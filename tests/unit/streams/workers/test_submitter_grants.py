"""A create whose command was written beside its grant waits until the grant is known, and is not sent without it."""

import asyncio
from pathlib import Path

from backstop.runtime.records import Record
from schemas.codec import encode
from schemas.commands import CreateResponse
from schemas.jobs import AttemptAccepted, AttemptRejected, JobAdmitted
from streams.early_creates import EarlyCreates
from tests.support.waiting import eventually
from tests.unit.streams.workers.submitting import NOW_MS, create, submitting


def early(job_id: str = "job_1") -> CreateResponse:
    return create(job_id).model_copy(update={"beside_grant": True})


def grant_of(command: CreateResponse, offset: int) -> Record:
    fact = JobAdmitted(
        id=f"{command.job_id}/admitted", at_ms=NOW_MS, job_id=command.job_id, reserved_tokens=1, waited_for="turn"
    )
    return Record("jobs", 0, offset, NOW_MS, fact.key.encode(), encode(fact), ())


def test_it_is_sent_when_the_grant_is_acknowledged_and_not_before(tmp_path: Path) -> None:
    async def story() -> None:
        creates, command = EarlyCreates(), early()
        async with submitting(tmp_path, early=creates) as bench:
            creates.begin(0, command, 4)
            bench.commands.publish(command)
            await eventually(lambda: bench.commands.committed.get(0) == 1, 5, "the command to be taken")
            bench.commands.publish(create("job_2"))  # One that waits for nothing.
            (fact,) = await bench.facts(1)
            assert fact.job_id == "job_2"
            assert bench.server.posts == 1
            creates.landed(grant_of(command, 5))
            fact = (await bench.facts(2))[1]
            assert isinstance(fact, AttemptAccepted)
            assert (fact.job_id, bench.server.posts) == ("job_1", 2)

    asyncio.run(story())


def test_what_another_process_wrote_is_not_sent_and_the_job_asks_again_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with submitting(tmp_path) as bench:
            bench.commands.publish(early())
            (fact,) = await bench.facts(1)
            assert isinstance(fact, AttemptRejected)
            assert (fact.attempt, fact.cause, fact.code, fact.wait_ms) == (1, "held", "grant_not_known", 1)
            assert bench.server.posts == 0

    asyncio.run(story())


def test_the_command_of_the_grants_own_fold_is_a_repeat(tmp_path: Path) -> None:
    async def story() -> None:
        creates, command = EarlyCreates(), early()
        async with submitting(tmp_path, early=creates) as bench:
            creates.begin(0, command, 4)
            creates.landed(grant_of(command, 5))
            bench.commands.publish(command, create())
            await bench.dropped_one("duplicate")
            await bench.facts(1)
            assert bench.server.posts == 1

    asyncio.run(story())
