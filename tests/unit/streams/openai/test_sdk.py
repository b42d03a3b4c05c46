"""The SDK's own ways, as they are set here: keys, environment, logs, figures."""

import asyncio
import logging
from typing import Any

import pytest
from openai import AsyncOpenAI
from prometheus_client import CollectorRegistry

from streams.workers.metrics import WorkerMetrics
from tests.support.accounts import account_at, client_of
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.misbehaving import RESPONSE_ID, Seen, Server, serving
from tests.unit.streams.workers.openai_calls import KEY, connected, create_against, created

pytestmark = pytest.mark.usefixtures("no_proxy")


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


def test_a_call_is_sent_as_the_plain_sdk_sends_it() -> None:
    include: list[Any] = ["message.output_text.logprobs", "reasoning.encrypted_content"]

    async def scenario() -> Server:
        with_cookie = server.answer(200, server.response(), set_cookie="edge=1; Path=/")
        async with serving(with_cookie, server.answer(200, server.response())) as state:
            async with connected(state.base_url) as client, AsyncOpenAI(base_url=state.base_url, api_key=KEY) as plain:
                await client.retrieve(RESPONSE_ID)
                await created(client, {"model": "m", "input": "Hi"})
                await client.retrieve(RESPONSE_ID, include)
                await client.cancel(RESPONSE_ID)
                await plain.responses.create(model="m", input="Hi", timeout=5.0)
                await plain.responses.retrieve(RESPONSE_ID, include=include, timeout=5.0)
                await plain.responses.cancel(RESPONSE_ID, timeout=5.0)
            return state

    _, *requests = asyncio.run(scenario()).requests
    ours, plain = requests[:3], requests[3:]
    assert [(sent.method, sent.path) for sent in ours] == [(sent.method, sent.path) for sent in plain]
    for sent, of_sdk in zip(ours, plain, strict=True):
        assert sent.headers["cookie"] == "edge=1"
        assert _shared(sent) == _shared(of_sdk)


def _shared(request: Seen) -> dict[str, str]:
    """The headers that must be equal. HTTP clients differ in the codings and connections that they ask for."""
    own = {"accept-encoding", "connection", "content-length", "cookie", "idempotency-key", "host"}
    return {name: value for name, value in request.headers.items() if name not in own}


def test_without_a_key_none_is_sent() -> None:
    async def scenario() -> Server:
        async with serving(server.answer(200, server.response())) as state:
            client = client_of(account_at(state.base_url, ""))
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


def test_the_outcome_of_each_call_is_counted() -> None:
    async def scenario() -> CollectorRegistry:
        registry = CollectorRegistry()
        async with serving(server.answer(200, server.response()), server.html(502), server.close) as state:
            client = client_of(account_at(state.base_url, KEY), WorkerMetrics(registry), poll_timeout_ms=5_000)
            for _ in range(3):
                await client.retrieve(RESPONSE_ID)
            await client.close()
        return registry

    registry = asyncio.run(scenario())
    for status_class in ("2xx", "5xx", "lost"):
        labels = {"operation": "retrieve", "status_class": status_class}
        assert registry.get_sample_value("backstop_openai_requests_total", labels) == 1
