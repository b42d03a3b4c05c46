"""Large requests in a worker wait for each other, per tenant."""

import asyncio
from pathlib import Path

import pytest

from backstop.runtime.blobs import Bodies
from schemas.base import BlobBody, InlineBody
from schemas.jobs import AttemptAccepted, AttemptRejected
from streams.workers.request_memory import COST, RequestMemory
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.submitting import create, submitting

pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")

MIB = 1 << 20


def large(mib: int) -> BlobBody:
    return BlobBody(sha256="0" * 64, size_bytes=mib * MIB)


def test_a_tenant_gets_what_it_leaves_free_and_another_still_finds_room() -> None:
    memory = RequestMemory(60 * COST * MIB)
    with (
        memory.share("a", large(20)) as first,
        memory.share("a", large(20)) as second,
        memory.share("b", large(20)) as other,
    ):
        assert (first, second, other) == (True, False, True)
    with memory.share("a", large(20)) as again:
        assert again, "all was given back"


def test_a_request_larger_than_all_is_sent_alone_and_a_small_one_waits_for_nothing() -> None:
    memory = RequestMemory(10 * MIB)
    with memory.share("a", large(500)) as huge, memory.share("a", large(500)) as more:
        assert (huge, more) == (True, False)
        with memory.share("a", InlineBody(value={})) as small:
            assert small


def test_a_create_that_finds_no_memory_is_given_back_and_nothing_is_sent(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(
            tmp_path, server.stall, server.answer(200, server.response(metadata={})), bodies_memory_bytes_max=2 * MIB
        ) as bench:
            body = await Bodies(bench.blobs, 10).put({"model": "m", "input": "x" * MIB})
            bench.commands.publish(create("a", request=body), create("b", request=body))
            (fact,) = await bench.facts(1)
            assert isinstance(fact, AttemptRejected)
            assert (fact.job_id, fact.cause, fact.code, fact.wait_ms) == ("b", "held", "memory_full", 2_000)
            assert bench.server.posts <= 1
            await bench.facts(2)
            bench.commands.publish(create("b", attempt=2, request=body))
            assert isinstance((await bench.facts(3))[2], AttemptAccepted)

    asyncio.run(scenario())
