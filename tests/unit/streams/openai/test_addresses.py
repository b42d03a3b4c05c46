"""The URL of a call: an id is one segment of the path, and `include` is a parameter."""

import asyncio
from urllib.parse import unquote

import pytest
from openai import AsyncOpenAI

from streams.openai.answers import (
    Fault,
    Reply,
)
from streams.openai.stream import OpenAIStreams
from streams.provider import CallLimits
from tests.support.accounts import account_at
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.misbehaving import RESPONSE_ID, Server, serving
from tests.unit.streams.workers.openai_calls import KEY, connected

pytestmark = pytest.mark.usefixtures("no_proxy")


@pytest.mark.parametrize("response_id", ["", "a\nb", "a\x7f", "r\u00e9sp", "x" * 1_025])
def test_an_invalid_id_makes_no_call(response_id: str) -> None:
    async def scenario() -> tuple[Reply, Server]:
        async with serving(server.answer(200, server.response())) as state, connected(state.base_url) as client:
            return await client.retrieve(response_id), state

    reply, state = asyncio.run(scenario())
    assert isinstance(reply, Fault)
    assert state.requests == []


PRINTABLE = "".join(map(chr, range(32, 127)))


@pytest.mark.parametrize(
    "response_id",
    [".", "..", "...", "%2E%2E", "a/b", "/", "?x=1", "#f", "100%", "a+b c", "resp_QQ==", "a@b:c", "//evil.example/x",
    "\\", PRINTABLE,
     "resp_" + "Ab9+/=" * 169],
)  # fmt: skip
def test_an_id_is_one_segment_of_the_path_whatever_its_characters(response_id: str) -> None:
    async def scenario() -> Server:
        async with serving(server.answer(200, server.response())) as state, connected(state.base_url) as client:
            await client.retrieve(response_id)
            await client.cancel(response_id)
            streams = OpenAIStreams(account_at(state.base_url), CallLimits(stream_silence_ms=5_000))
            async with streams.opened(response_id, 7):
                pass
            await streams.close()
            return state

    seen = [request.path for request in asyncio.run(scenario()).requests]
    prefix = "/v1/responses/"
    segments = [path.removeprefix(prefix).partition("?")[0] for path in seen]
    assert all(path.startswith(prefix) for path in seen)
    assert [unquote(segments[0]), unquote(segments[2])] == [response_id, response_id]
    assert segments[1] == f"{segments[0]}/cancel"
    assert segments[0] not in (".", "..")
    assert not set(segments[0]) & set("/?# ")
    assert seen[2].endswith("?stream=true&starting_after=7")


def test_include_of_the_create_is_sent_with_each_poll() -> None:
    async def scenario() -> Server:
        async with serving(server.answer(200, server.response())) as state, connected(state.base_url) as client:
            await client.retrieve(RESPONSE_ID, include=("reasoning.encrypted_content", "message.output_text.logprobs"))
            # The plain SDK sends the same parameters.
            async with AsyncOpenAI(base_url=state.base_url, api_key=KEY, max_retries=0) as plain:
                await plain.responses.retrieve(
                    RESPONSE_ID, include=["reasoning.encrypted_content", "message.output_text.logprobs"]
                )
            return state

    ours, plain = (request.path for request in asyncio.run(scenario()).requests)
    assert ours == plain
    assert "logprobs" in ours
