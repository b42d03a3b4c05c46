"""Where the submitter reads a request from, and the facts it makes of the answer."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backstop.runtime.blobs import Bodies
from schemas.base import BlobBody, InlineBody
from schemas.jobs import AttemptAccepted, AttemptUnknown
from streams.workers.rate import WINDOW_MS
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.misbehaving import Mischief
from tests.unit.streams.workers.submitting import create, submitting


def test_a_large_request_is_read_from_the_blob_store(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path) as bench:
            request = {"model": "m", "input": "x" * 1_000}
            bench.commands.publish(create(request=await Bodies(bench.blobs, 10).put(request)))
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


def test_while_the_blob_store_is_in_trouble_nothing_is_sent_and_the_job_comes_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path) as bench:
            body = await Bodies(bench.blobs, 10).put({"model": "m", "input": "x" * 1_000})
            assert isinstance(body, BlobBody)
            path = tmp_path / body.sha256[:2] / body.sha256
            kept = path.read_bytes()
            path.unlink()
            path.mkdir()  # a folder can't be read as a file
            bench.commands.publish(create(request=body))
            (fact,) = await bench.facts(1)
            assert (fact.cause, fact.code) == ("unsent", "blob_store_unavailable")
            assert bench.registry.get_sample_value("backstop_openai_alarms_total", {"kind": "blob_store"}) == 1
            path.rmdir()
            path.write_bytes(kept)
            bench.commands.publish(create(attempt=2, request=body))
            assert isinstance((await bench.facts(2))[1], AttemptAccepted)
            assert bench.server.posts == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(("mischief", "reason"), [(server.close, "lost"), (server.stall, "timeout")])
def test_a_create_without_an_answer_has_an_unknown_outcome_and_is_not_repeated(
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


def test_an_edge_block_is_told_to_the_rate(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with submitting(tmp_path, server.html(403)) as bench:
            bench.commands.publish(create())
            (fact,) = await bench.facts(1)
            assert (fact.cause, fact.code) == ("limited", "edge_block")
            before_per_s = bench.rate.per_s
            bench.now_ms[0] += WINDOW_MS
            assert bench.rate.per_s < before_per_s

    asyncio.run(scenario())
