"""The real SDK against a server that does every fault there is: one call is one request, and its outcome is data."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from schemas.codec import canonical
from streams.policy.answers import (
    NOT_JSON,
    Accepted,
    Answer,
    Fault,
    Rejected,
    Reply,
    Unknown,
    read_create,
    read_look,
)
from streams.policy.observations import Seen
from streams.workers.metrics import WorkerMetrics
from streams.workers.openai_client import OpenAIClient, parse
from streams.workers.openai_stream import OpenAIStreams
from tests.support.fault_proxy import FaultProxy, Faults
from tests.unit.workers import misbehaving as server
from tests.unit.workers.misbehaving import RESPONSE_ID, Mischief, Server, serving

KEY = "sk-test-0123456789abcdef"
LOOP = server.redirect(307, f"/v1/responses/{RESPONSE_ID}")
"""Where it leads is here again."""


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def connected(base_url: str, **options: Any) -> AsyncIterator[OpenAIClient]:
    options = {"create_timeout_ms": 5_000, "look_timeout_ms": 5_000, **options}
    client = OpenAIClient(
        base_url=base_url, api_key=SecretStr(KEY), metrics=WorkerMetrics(CollectorRegistry()), **options
    )
    try:
        yield client
    finally:
        await client.close()


def created(client: OpenAIClient, request: dict[str, Any] | None = None) -> Awaitable[Reply]:
    return client.create(request or {"model": "m", "input": "Hi"}, job_id="job_1", attempt=2, tenant="acme")


def create_against(mischief: Mischief, **options: Any) -> tuple[Reply, Server]:
    async def scenario() -> tuple[Reply, Server]:
        async with serving(mischief) as state, connected(state.base_url, **options) as client:
            return await created(client), state

    return asyncio.run(scenario())


def test_a_create_is_background_and_stored_and_says_whose_it_is() -> None:
    async def scenario() -> tuple[Reply, Server]:
        mischief = server.answer(200, server.response(), x_request_id="req_9")
        async with serving(mischief) as state, connected(state.base_url) as client:
            request = {
                "model": "m",
                "input": "Hi",
                "a_field_of_tomorrow": [1],
                "metadata": {"team": "red", "job": "17"},
            }
            return await created(client, request), state

    reply, state = asyncio.run(scenario())
    assert read_create(reply, 0) == Accepted(RESPONSE_ID, "queued", "req_9")
    (sent,) = state.requests
    assert (sent.method, sent.path) == ("POST", "/v1/responses")
    assert sent.json() == {
        "model": "m", "input": "Hi", "a_field_of_tomorrow": [1], "background": True, "store": True,
        "metadata": {
            "team": "red", "job": "17", "backstop_job": "job_1", "backstop_attempt": "2", "backstop_tenant": "acme",
        },
    }  # fmt: skip
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.headers["idempotency-key"] == "job_1/2"
    assert sent.headers["x-stainless-retry-count"] == "0"


def test_metadata_of_the_caller_cannot_take_the_place_of_ours() -> None:
    async def scenario() -> Server:
        async with serving(server.answer(200, server.response())) as state, connected(state.base_url) as client:
            await created(
                client, {"model": "m", "metadata": {"backstop_job": "forged"}, "store": False, "background": False}
            )
            return state

    sent = asyncio.run(scenario()).requests[0].json()
    assert sent["metadata"]["backstop_job"] == "job_1"
    assert (sent["store"], sent["background"]) == (True, True)


@pytest.mark.parametrize(
    ("mischief", "meaning"),
    [
        pytest.param(server.close, Unknown, id="closes after reading"),
        pytest.param(server.reset, Unknown, id="resets after reading"),
        pytest.param(server.cut, Unknown, id="cuts the body"),
        pytest.param(server.not_http, Unknown, id="is no HTTP"),
        pytest.param(server.html(200), Unknown, id="200 with HTML"),
        pytest.param(server.answer(200, b'{"id": "resp_1", '), Unknown, id="200 with broken JSON"),
        pytest.param(server.answer(200, {}), Unknown, id="200 with an empty object"),
        pytest.param(server.answer(200, {"error": {"message": "x"}}), Rejected, id="200 with an error"),
        pytest.param(server.answer(200, [1]), Unknown, id="200 with a list"),
        pytest.param(server.answer(200, b"null"), Unknown, id="200 with null"),
        pytest.param(server.answer(204, b""), Unknown, id="204"),
        pytest.param(server.answer(200, b""), Unknown, id="200 with nothing"),
        pytest.param(server.answer(408, {"error": {}}), Unknown, id="408"),
        pytest.param(server.answer(409, {"error": {}}), Unknown, id="409"),
        pytest.param(server.answer(500, {"error": {}}), Unknown, id="500"),
        pytest.param(server.html(502), Unknown, id="502 with HTML"),
        pytest.param(server.answer(503, {"error": {}}), Rejected, id="503"),
        pytest.param(server.answer(504, {"error": {}}), Rejected, id="504"),
        pytest.param(server.html(503), Unknown, id="503 with HTML"),
        pytest.param(server.redirect(302, "/v1/elsewhere"), Rejected, id="302"),
        pytest.param(server.redirect(307, "/v1/responses"), Rejected, id="307 to itself"),
        pytest.param(server.answer(429, {"error": {}}, retry_after="1"), Rejected, id="429"),
        pytest.param(
            server.answer(400, {"error": {}}, x_should_retry="true"), Rejected, id="400 that asks for a retry"
        ),
        pytest.param(server.answer(401, {"error": {}}), Rejected, id="401"),
    ],
)
def test_a_create_is_one_post_whatever_comes_back(mischief: Mischief, meaning: type[object]) -> None:
    reply, state = create_against(mischief)
    assert state.posts == 1
    assert len(state.requests) == 1
    assert isinstance(read_create(reply, 0), meaning), reply


@pytest.mark.parametrize(
    "mischief", [server.stall, server.drip, server.slow_headers], ids=["stalls", "drips bytes", "drips its headers"]
)
def test_a_create_without_an_end_is_given_up_in_time_and_unknown(mischief: Mischief) -> None:
    async def scenario() -> tuple[Reply, float, Server]:
        async with serving(mischief) as state, connected(state.base_url, create_timeout_ms=300) as client:
            started_s = asyncio.get_running_loop().time()
            reply = await created(client)
            return reply, asyncio.get_running_loop().time() - started_s, state

    reply, took_s, state = asyncio.run(scenario())
    assert isinstance(reply, Fault)
    assert reply.kind == "timeout"
    assert isinstance(read_create(reply, 0), Unknown)
    assert state.posts == 1
    assert took_s < 3


def test_a_create_on_a_connection_that_dies_idle_or_in_use_is_never_repeated() -> None:
    async def scenario() -> tuple[Reply, Server]:
        script = (server.answer(200, server.response()), server.close)
        async with serving(*script) as state, connected(state.base_url) as client:
            await created(client)
            return await created(client), state

    reply, state = asyncio.run(scenario())
    assert state.posts == 2
    assert isinstance(read_create(reply, 0), Unknown)


def _refused_port() -> str:
    return f"http://127.0.0.1:{server.free_port()}/v1"


def _unknown_host() -> str:
    return "http://nowhere.invalid/v1"


@pytest.mark.parametrize("base_url", [_refused_port, _unknown_host], ids=["refused", "no such host"])
def test_a_create_that_never_left_is_rejected_and_may_be_sent_soon(base_url: Callable[[], str]) -> None:
    async def scenario() -> Reply:
        async with connected(base_url()) as client:
            return await created(client)

    reply = asyncio.run(scenario())
    assert isinstance(reply, Fault)
    assert reply.kind == "never_sent"
    verdict = read_create(reply, 0)
    assert isinstance(verdict, Rejected)
    assert (verdict.cause, verdict.code) == ("unsent", "never_sent")


def test_a_handshake_that_fails_was_never_sent() -> None:
    async def no_tls(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.7\r\n")
        writer.close()

    async def scenario() -> Reply:
        async with await asyncio.start_server(no_tls, "127.0.0.1", 0) as listener:
            port = listener.sockets[0].getsockname()[1]
            async with connected(f"https://127.0.0.1:{port}/v1") as client:
                return await created(client)

    reply = asyncio.run(scenario())
    assert isinstance(reply, Fault)
    assert reply.kind == "never_sent"


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_a_body_that_nobody_reads_is_unknown() -> None:
    async def scenario() -> Reply:
        with socket.socket() as listener:  # accepts in the kernel, and reads nothing
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            async with connected(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", create_timeout_ms=400) as client:
                return await created(client, {"model": "m", "input": "x" * 20_000_000})

    reply = asyncio.run(scenario())
    assert isinstance(read_create(reply, 0), Unknown), reply


@pytest.mark.parametrize("faults", [Faults(slice_bytes=3), Faults(bytes_per_s=20_000)], ids=["sliced", "narrow"])
def test_over_a_bad_link_an_answer_is_slower_and_the_same(faults: Faults) -> None:
    async def scenario() -> tuple[Reply, Reply]:
        async with serving(server.answer(200, server.completed())) as state:
            proxy = FaultProxy(state.port)
            await proxy.start()
            proxy.faults = faults
            try:
                async with connected(f"http://{proxy.address}/v1") as client, connected(state.base_url) as beside:
                    return await client.retrieve(RESPONSE_ID), await beside.retrieve(RESPONSE_ID)
            finally:
                await proxy.stop()

    bad, good = asyncio.run(scenario())
    assert isinstance(read_look(bad, 0), Seen)
    assert bad == good


def test_a_look_is_one_get_and_a_cancel_one_post_without_a_body() -> None:
    async def scenario() -> tuple[Reply, Reply, Server]:
        async with serving(server.answer(200, server.completed())) as state, connected(state.base_url) as client:
            return await client.retrieve(RESPONSE_ID), await client.cancel(RESPONSE_ID), state

    look, cancel, state = asyncio.run(scenario())
    assert isinstance(read_look(look, 0), Seen)
    assert isinstance(read_look(cancel, 0), Seen)
    assert [(request.method, request.path, request.body) for request in state.requests] == [
        ("GET", f"/v1/responses/{RESPONSE_ID}", b""),
        ("POST", f"/v1/responses/{RESPONSE_ID}/cancel", b""),
    ]


@pytest.mark.parametrize(
    "mischief", [server.close, server.html(502), server.answer(429, {"error": {}}), server.cut, LOOP]
)
def test_a_look_that_fails_is_not_repeated_behind_the_global_rate(mischief: Mischief) -> None:
    async def scenario() -> tuple[Reply, Server]:
        async with serving(mischief) as state, connected(state.base_url) as client:
            return await client.retrieve(RESPONSE_ID), state

    _, state = asyncio.run(scenario())
    assert len(state.requests) == 1


@pytest.mark.parametrize("response_id", ["", "a\nb", "a\x7f", "r\u00e9sp", "x" * 1_025])
def test_what_is_no_id_asks_nothing(response_id: str) -> None:
    async def scenario() -> tuple[Reply, Server]:
        async with serving(server.answer(200, server.response())) as state, connected(state.base_url) as client:
            return await client.retrieve(response_id), state

    reply, state = asyncio.run(scenario())
    assert isinstance(reply, Fault)
    assert state.requests == []


PRINTABLE = "".join(map(chr, range(32, 127)))


@pytest.mark.parametrize(
    "response_id",
    [".", "..", "...", "%2E%2E", "a/b", "/", "?x=1", "#f", "100%", "a+b c", "resp_QQ==", "a@b:c", "//evil.example/x", "\\", PRINTABLE,
     "resp_" + "Ab9+/=" * 169],
)  # fmt: skip
def test_an_id_is_one_segment_of_the_path_whatever_stands_in_it(response_id: str) -> None:
    async def scenario() -> Server:
        async with serving(server.answer(200, server.response())) as state, connected(state.base_url) as client:
            await client.retrieve(response_id)
            await client.cancel(response_id)
            streams = OpenAIStreams(
                base_url=state.base_url,
                api_key=SecretStr(KEY),
                connections_max=1,
                open_timeout_ms=5_000,
                silence_ms=5_000,
            )
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


def test_what_the_create_included_goes_out_with_each_poll() -> None:
    async def scenario() -> Server:
        async with serving(server.answer(200, server.response())) as state, connected(state.base_url) as client:
            await client.retrieve(RESPONSE_ID, include=("reasoning.encrypted_content", "message.output_text.logprobs"))
            # The plain SDK asks in the same words.
            async with AsyncOpenAI(base_url=state.base_url, api_key=KEY, max_retries=0) as plain:
                await plain.responses.retrieve(
                    RESPONSE_ID, include=["reasoning.encrypted_content", "message.output_text.logprobs"]
                )
            return state

    ours, plain = (request.path for request in asyncio.run(scenario()).requests)
    assert ours == plain
    assert "logprobs" in ours


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"queue is full, try again", "queue is full, try again"),
        (b"\xff" + b"<p>" * 1_000, ("\ufffd" + "<p>" * 1_000)[:500]),
        ("\u00e9".encode() * 2_000, "\u00e9" * 500),
        (b"", ""),
        (b"{}", ""),
    ],
)
def test_the_beginning_of_an_answer_that_is_no_json_is_kept(body: bytes, text: str) -> None:
    for status in (200, 400, 500):
        reply, _ = create_against(server.answer(status, body, content_type="text/plain"))
        assert isinstance(reply, Answer)
        assert reply.text == text


def test_a_name_and_password_in_the_base_url_are_sent_as_the_plain_sdk_does() -> None:
    async def scenario() -> Server:
        async with serving(server.answer(200, server.response())) as state:
            base_url = f"http://user:p%40ss@127.0.0.1:{state.port}/v1"
            async with connected(base_url) as client, AsyncOpenAI(base_url=base_url, api_key=KEY) as plain:
                await client.retrieve("..")
                await plain.responses.retrieve(RESPONSE_ID)
            return state

    ours, plain = asyncio.run(scenario()).requests
    assert ours.headers["authorization"] == plain.headers["authorization"]
    assert ours.path == "/v1/responses/%2E%2E"


def test_without_a_key_none_is_sent() -> None:
    async def scenario() -> Server:
        async with serving(server.answer(200, server.response())) as state:
            client = OpenAIClient(
                base_url=state.base_url, api_key=SecretStr(""), metrics=WorkerMetrics(CollectorRegistry())
            )
            await created(client)
            await client.retrieve(RESPONSE_ID)
            await client.close()
            return state

    requests = asyncio.run(scenario()).requests
    assert len(requests) == 2
    assert all("authorization" not in request.headers for request in requests)


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "OPENAI_API_KEY": "sk-other", "OPENAI_ADMIN_KEY": "sk-admin", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1",
        "OPENAI_ORG_ID": "org-other", "OPENAI_PROJECT_ID": "proj-other", "OPENAI_WEBHOOK_SECRET": "whsec_other",
        "OPENAI_CUSTOM_HEADERS": "x-strange: 1\nAuthorization: Bearer other",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    _, state = create_against(server.answer(200, server.response()))
    headers = state.requests[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert not {"x-strange", "openai-organization", "openai-project"} & headers.keys()


def test_neither_the_key_nor_the_prompt_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("openai").setLevel(logging.DEBUG)  # as OPENAI_LOG=debug has it at import

    async def scenario() -> None:
        mischief = server.answer(400, {"error": {"message": "no"}})
        async with serving(mischief) as state, connected(state.base_url) as client:
            await created(client, {"model": "m", "input": "the secret prompt"})

    asyncio.run(scenario())
    assert KEY not in caplog.text
    assert "secret prompt" not in caplog.text


def test_what_happened_is_counted() -> None:
    async def scenario() -> CollectorRegistry:
        registry = CollectorRegistry()
        async with serving(server.answer(200, server.response()), server.html(502), server.close) as state:
            client = OpenAIClient(
                base_url=state.base_url, api_key=SecretStr(KEY), metrics=WorkerMetrics(registry), look_timeout_ms=5_000
            )
            for _ in range(3):
                await client.retrieve(RESPONSE_ID)
            await client.close()
        return registry

    registry = asyncio.run(scenario())
    for status_class in ("2xx", "5xx", "lost"):
        labels = {"operation": "retrieve", "status_class": status_class}
        assert registry.get_sample_value("backstop_openai_requests_total", labels) == 1


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'{"a": "\\ud83d"}', {"a": "\ufffd"}),
        (b'{"a": NaN}', {"a": None}),
        (b'{"a": NaN, "b": 123456789012345678901234567890}', {"a": None, "b": 1.2345678901234568e29}),
        (b"<html>", NOT_JSON),
        (b"", NOT_JSON),
        (b"\xff\xfe", NOT_JSON),
        (b'{"a": ', NOT_JSON),
    ],
)
def test_json_is_read_generously(content: bytes, value: Any) -> None:
    assert parse(content) == value


@given(st.binary() | st.text().map(lambda text: f'{{"a": NaN, "b": "{text}\\ud83d"}}'.encode("utf-8", "replace")))
def test_what_is_read_can_be_written(content: bytes) -> None:
    value = parse(content)
    if value is not NOT_JSON:
        canonical(value)


def test_nesting_without_end_is_no_json() -> None:
    assert parse(b"[" * 100_000) is NOT_JSON
    assert isinstance(read_create(Answer(200, {}, parse(b"[" * 100_000 + b"]" * 100_000)), 0), Unknown)
