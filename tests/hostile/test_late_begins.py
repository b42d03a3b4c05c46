"""A job that may not begin before its latest deadline would expire unbegun, a week later: each ingress refuses it."""

import asyncio

import orjson
import pytest

from backstop.runtime.blobs import Bodies
from backstop.runtime.records import Record
from schemas.base import Message
from schemas.dead_letters import DeadLetter
from schemas.jobs import JobRefused, JobSubmitted
from schemas.requests import TIMEOUT_MS_MAX
from streams.agents.intake import take_request
from streams.submission import SubmissionPolicy
from tests.simulation.blobs import MemoryBlobs
from tests.support.builders import T0
from tests.unit.receiver.ingress import NOW_MS, Ingress, with_ingress

LATEST_MS = TIMEOUT_MS_MAX - 1


def test_no_http_ingress_takes_a_job_that_may_not_begin_before_its_end() -> None:
    async def story(ingress: Ingress) -> None:
        for late_ms in (TIMEOUT_MS_MAX, 10 * TIMEOUT_MS_MAX, 10**15 - NOW_MS - 1):
            not_before_ms = NOW_MS + late_ms
            job = {"request": {"model": "m", "input": "x"}, "not_before_ms": not_before_ms}
            status, document, _ = await ingress.call("POST", "/v1/jobs", json=job)
            assert (status, document["errors"][0]["pointer"]) == (422, "#/not_before_ms")
            assert "7 days" in document["errors"][0]["detail"]
            headers = {"Backstop-Not-Before-Ms": str(not_before_ms)}
            asked = {"model": "m", "input": "x", "background": True}
            status, document, _ = await ingress.call("POST", "/v1/responses", json=asked, headers=headers)
            assert (status, "7 days" in document["error"]["message"]) == (400, True), document
        assert ingress.publisher.landed == []
        job = {"request": {"model": "m", "input": "x"}, "not_before_ms": NOW_MS + LATEST_MS}
        assert (await ingress.call("POST", "/v1/jobs", json=job))[0] == 202

    with_ingress(story)


@pytest.mark.parametrize(
    ("late_ms", "kinds"), [(LATEST_MS, [JobSubmitted]), (TIMEOUT_MS_MAX, [DeadLetter, JobRefused])]
)
def test_the_intake_takes_no_job_that_may_not_begin_before_its_end(late_ms: int, kinds: list[type[Message]]) -> None:
    value = orjson.dumps({"type": "submit", "job_id": "j", "request": {"model": "m"}, "not_before_ms": T0 + late_ms})
    taking = take_request(
        Record("requests", 0, 0, T0, b"j", value), tenant="default", now_ms=T0, policy=SubmissionPolicy(),
        bodies=Bodies(MemoryBlobs(), 65_536),
    )  # fmt: skip
    assert [type(message) for message in asyncio.run(taking)] == kinds
