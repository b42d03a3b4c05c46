"""Streams of large requests: each of their first events has what it shows of the request, so that must be little."""

import io
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from backstop.runtime.blobs import FolderBlobs
from receiver.limits import Limits
from tests.hostile.pauses import least_pause_s
from tests.unit.receiver.ingress import Ingress, with_ingress
from tests.unit.receiver.reads import MemoryChanges, MemoryReads

SHOWN_BYTES = 40_000_000
PAUSE_S_MAX = 0.05
JSON = {"Content-Type": "application/json"}

INSTRUCTIONS = {
    "a plain text": ("x", SHOWN_BYTES),
    "a text with escapes": ('Said, "no".\n', SHOWN_BYTES // 15),
    "a text of four-byte characters": ("Grüße 😀, ", SHOWN_BYTES // 15),
}


async def created(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """The response in the first event."""
    assert (answer.status, await answer.content.readline()) == (200, b"event: response.created\n")
    line = await answer.content.readuntil(b"\n")
    shown: dict[str, Any] = orjson.loads(line.removeprefix(b"data: "))["response"]
    return shown


@pytest.mark.parametrize("kind", INSTRUCTIONS)
def test_a_stream_shows_of_a_large_request_what_later_reads_show(tmp_path: Path, kind: str) -> None:
    reads, changes = MemoryReads(), MemoryChanges()
    unit, count = INSTRUCTIONS[kind]
    asked = {"model": "m", "stream": True, "input": "x", "temperature": 0.5, "instructions": unit * count}

    async def story(ingress: Ingress) -> None:
        sent = io.BytesIO(orjson.dumps(asked))
        async with ingress.session.post(f"{ingress.url}/v1/responses", data=sent, headers=JSON) as answer:
            first = await created(answer)
        assert (first["temperature"], first["instructions"]) == (0.5, None)
        fact: Any = ingress.publisher.landed[0]
        reads.add("default", fact.key, status="running", request_sha256=fact.request_sha256)

        async def resume() -> None:
            async with ingress.session.get(f"{ingress.url}/v1/responses/{fact.key}?stream=true") as answer:
                again = await created(answer)
            assert {**again, "created_at": first["created_at"], "model": "m"} == first

        assert await least_pause_s(PAUSE_S_MAX, resume) <= PAUSE_S_MAX

    limits = Limits(submit_body_s=60, answers_memory_bytes_max=1 << 30)
    with_ingress(
        story, blobs=FolderBlobs(tmp_path), reads=reads, changes=changes, limits=limits, submit_bytes_max=64 << 20
    )
