"""What a worker gets of a large answer is judged as the whole is."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.codec import canonical
from schemas.shape import ShapeLimits
from streams.openai import large_json
from streams.openai.foreign_json import NOT_JSON
from streams.openai.large_reader import Large, LargeReader
from streams.openai.observations import see
from streams.provider import Seen
from tests.unit.streams.workers import misbehaving as server

SHAPE = ShapeLimits(values_max=2_000_000, depth_max=1 << 30)
LONG = "A" * (large_json.BYTES_MAX + 1)
TEXT = {"type": "message", "content": [{"type": "output_text", "text": LONG}]}
CALLS = [
    {"type": "web_search_call", "id": "w"}, {"type": "code_interpreter_call", "container_id": "c_1", "code": LONG},
    {"type": "code_interpreter_call", "container_id": "c_2"}, "odd", None,
]  # fmt: skip
ERROR = {"code": "server_error", "message": f"Try again in 20 s. {LONG}"}


@pytest.mark.parametrize(
    "body",
    [
        {**server.completed(), "output": [TEXT]},
        {**server.completed(), "output": [TEXT, *CALLS]},
        {**server.completed(), "output": "odd", "more": LONG},
        {**server.response(status="failed", error=ERROR), "output": [TEXT]},
        server.response(status="incomplete", incomplete_details={"reason": "max_output_tokens"}, instructions=LONG),
        server.response(status="in_progress", instructions=LONG, background_options={"continuation_id": "c"}),
        {"id": LONG, "status": LONG, "usage": {"input_tokens": 3, LONG: LONG}},
        {**server.completed(), "output": None, "more": LONG},
        {"error": "none", "more": LONG},
        [LONG],
    ],
)
def test_the_head_is_judged_as_the_whole_is(body: Any) -> None:
    head, text = large_json.read(orjson.dumps(body), SHAPE)
    assert head is not None
    assert len(head) < 50_000
    by_head, by_whole = see(orjson.loads(head), {}), see(body, {})
    if isinstance(by_head, Seen) and isinstance(by_whole, Seen):
        assert text == canonical(by_whole.body)
        by_head, by_whole = replace(by_head, body={}), replace(by_whole, body={})
    assert by_head == by_whole


def test_what_is_small_once_its_blanks_are_gone_comes_whole() -> None:
    body = server.completed()
    head, text = large_json.read(orjson.dumps(body) + b" " * large_json.BYTES_MAX, SHAPE)
    assert head == canonical(body)
    assert text == b""


def read(data: bytes, shape: ShapeLimits = SHAPE) -> Large | None:
    return asyncio.run(LargeReader(shape).read([data[:1_000], data[1_000:]]))


def test_a_process_reads_what_is_json_and_what_is_not() -> None:
    body = {**server.completed(), "output": [TEXT]}
    assert read(orjson.dumps(body)) == Large(large_json.head(body), canonical(body))
    assert read(b"<html>" + LONG.encode()) == Large(NOT_JSON, None)


@pytest.mark.parametrize("data", [b"[" * 300 + b'"' + LONG.encode() + b'"' + b"]" * 300, b"[" + b"0," * 50 + b"0]"])
def test_what_exceeds_a_limit_is_not_read(data: bytes) -> None:
    assert read(data, ShapeLimits(values_max=40, depth_max=1 << 30) if len(data) < 200 else SHAPE) is None


def test_a_process_that_fails_says_nothing_about_the_answer(tmp_path: Path) -> None:
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\nexit 1\n")
    failing.chmod(0o700)
    with pytest.raises(ChildProcessError, match="exit code 1"):
        asyncio.run(LargeReader(SHAPE, str(failing)).read([b"[]"]))


def test_a_call_that_is_over_leaves_no_process() -> None:
    async def scenario() -> None:
        reader = LargeReader(SHAPE)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await reader.read([LONG.encode()])
        assert await asyncio.wait_for(reader.read([b"1"]), 30) == Large(1, None)

    asyncio.run(scenario())
