"""The real SDK against a server that does every fault there is: one call is one request, and its outcome is data."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from streams.openai.answers import Fault, Reply, read_create, read_poll
from streams.provider import Accepted, Rejected, Seen, Unknown
from tests.support.fault_proxy import FaultProxy, Faults
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.misbehaving import RESPONSE_ID, Mischief, Server, serving
from tests.unit.streams.workers.openai_calls import KEY, LOOP, connected, create_against, created

pytestmark = pytest.mark.usefixtures("no_proxy")


def test_a_create_is_background_and_stored_and_names_its_job() -> None:
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


def test_metadata_of_a_user_cannot_replace_backstops() -> None:
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
        pytest.param(server.cut, Accepted, id="cuts the body behind the id"),
        pytest.param(server.not_http, Unknown, id="is no HTTP"),
        pytest.param(server.html(200), Unknown, id="200 with HTML"),
        pytest.param(server.answer(200, b'{"id": "resp_1", '), Accepted, id="200 with broken JSON"),
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
        async with serving(mischief) as state, connected(state.base_url) as client:
            started_s = asyncio.get_running_loop().time()
            reply = await created(client, timeout_ms=300)
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
def test_an_unreadable_body_is_unknown() -> None:
    async def scenario() -> Reply:
        with socket.socket() as listener:  # accepts in the kernel, and reads nothing
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            async with connected(f"http://127.0.0.1:{listener.getsockname()[1]}/v1") as client:
                return await created(client, {"model": "m", "input": "x" * 20_000_000}, 2_000)

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
    assert isinstance(read_poll(bad, 0), Seen)
    assert bad == good


def test_a_poll_is_one_get_and_a_cancel_one_post_without_a_body() -> None:
    async def scenario() -> tuple[Reply, Reply, Server]:
        async with serving(server.answer(200, server.completed())) as state, connected(state.base_url) as client:
            return await client.retrieve(RESPONSE_ID), await client.cancel(RESPONSE_ID), state

    poll, cancel, state = asyncio.run(scenario())
    assert isinstance(read_poll(poll, 0), Seen)
    assert isinstance(read_poll(cancel, 0), Seen)
    assert [(request.method, request.path, request.body) for request in state.requests] == [
        ("GET", f"/v1/responses/{RESPONSE_ID}", b""),
        ("POST", f"/v1/responses/{RESPONSE_ID}/cancel", b""),
    ]


@pytest.mark.parametrize(
    "mischief", [server.close, server.html(502), server.answer(429, {"error": {}}), server.cut, LOOP]
)
def test_a_poll_that_fails_is_not_repeated_behind_the_global_rate(mischief: Mischief) -> None:
    async def scenario() -> tuple[Reply, Server]:
        async with serving(mischief) as state, connected(state.base_url) as client:
            return await client.retrieve(RESPONSE_ID), state

    _, state = asyncio.run(scenario())
    assert len(state.requests) == 1
