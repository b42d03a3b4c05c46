"""Requests are acknowledged after their facts are on the jobs log, and not before."""

import asyncio
import json
from pathlib import Path

from backstop.runtime.blobs import Bodies
from backstop.runtime.records import Record
from schemas.dead_letters import DeadLetter
from schemas.jobs import JobRefused
from schemas.unreadable import Unreadable
from streams.agents.intake import take_request
from streams.submission import SubmissionPolicy
from tests.simulation.blobs import MemoryBlobs
from tests.support.builders import T0
from tests.support.intakes import intake_of
from tests.support.memory_publisher import MemoryPublisher
from tests.support.waiting import eventually


def test_a_request_is_not_acknowledged_before_its_job_is(tmp_path: Path) -> None:
    value = json.dumps({"type": "submit", "job_id": "a", "request": {"model": "m", "input": "hello"}}).encode()

    async def scenario() -> None:
        publisher = MemoryPublisher()
        intake = intake_of(publisher, tmp_path)
        publisher.hold()
        taking = asyncio.create_task(intake.take([Record("requests", 0, 0, T0, b"a", value, ())]))
        await eventually(lambda: publisher.on("jobs"), 5, "the job on its way")
        assert not taking.done()
        publisher.release()
        await asyncio.wait_for(taking, 5)
        assert [message.key for message in publisher.acked] == ["a"]

    asyncio.run(scenario())


def test_a_request_that_the_fetcher_could_not_read_is_refused_for_the_fetchers_reason_whatever_its_bytes_say() -> None:
    submit = json.dumps({"type": "submit", "request": {"model": "m", "input": "hello"}}).encode()
    for value, reason in (
        (Unreadable.of("too_large", "gzip: more than 50 MiB"), "too_large"),
        (Unreadable.of("unreadable", "a header is not UTF-8", submit), "unreadable"),
    ):
        letter, refused = asyncio.run(
            take_request(
                Record("requests", 0, 0, T0, b"a", value, ()), tenant="default", now_ms=T0, policy=SubmissionPolicy(),
                bodies=Bodies(MemoryBlobs(), 65_536),
            )
        )  # fmt: skip
        assert isinstance(letter, DeadLetter)
        assert isinstance(refused, JobRefused)
        assert (letter.reason, refused.key) == (reason, "a")
