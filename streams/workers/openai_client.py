"""The only home of the OpenAI SDK. One call in, one HTTP request out, and whatever happened comes back as data.

Three of the SDK's defaults would spend a job's money twice, and are off: its retries (a create whose connection drops after it
was accepted is sent three times), redirects (a 307 loop made 21 POSTs of one create), and waiting without an end (the read
timeout restarts with each byte). Measured with openai 3.54.0; `tests/unit/workers/test_openai_client.py` counts the POSTs.
"""

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import aiohttp
import httpx2
import openai
import orjson
from openai import AsyncOpenAI, AsyncStream, DefaultAioHttpClient
from openai._vendor.httpx_aiohttp import AiohttpTransport
from pydantic import SecretStr

from runtime.clock import monotonic_s
from streams.policy.answers import NOT_JSON, Answer, Fault, FaultKind, Reply
from streams.policy.sse import EventReader
from streams.workers.metrics import Operation, WorkerMetrics

CONNECT_TIMEOUT_S = 5.0
POOL_TIMEOUT_S = 2.0
KEEPALIVE_S = 5.0
"""As the SDK has it. Longer, and more creates would meet a connection that the server is just closing: unknown outcomes."""

CONNECTIONS_SPARE = 8
FIRST_EVENT_BYTES_MAX = 4 << 20
"""`response.created` holds the instructions and the tools that were asked for."""

STREAM: Final = AsyncStream[Any]
"""The SDK wants a type beside `stream`; asked for the HTTP response itself, it makes none."""

Call = Callable[[], Awaitable[httpx2.Response]]
Read = Callable[[httpx2.Response], Awaitable[Answer]]

NEVER_SENT: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""No connection was had, so no request has left. Judged by aiohttp's own error: the SDK's transport calls a connection that closed
under an accepted create a "connect timeout" too."""


class OpenAIClient:
    """Creates, retrieves and cancels. Nothing that the network or the server does makes it raise.

    The time limits are whole: a call is answered or given up within its `…_timeout_ms`, whatever the server does.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: SecretStr,
        metrics: WorkerMetrics,
        connections_max: int = 128,
        create_timeout_ms: int = 45_000,
        look_timeout_ms: int = 30_000,
        organization: str | None = None,
        project: str | None = None,
    ) -> None:
        self._metrics = metrics
        self._create_timeout_s = create_timeout_ms / 1_000
        self._look_timeout_s = look_timeout_ms / 1_000
        self._sdk = make_sdk(base_url, api_key, connections_max + CONNECTIONS_SPARE, organization, project)

    async def create(self, request: Mapping[str, Any], *, job_id: str, attempt: int, tenant: str) -> Reply:
        """`POST /responses`, once, in the background and stored, with metadata by which the response can be found again."""
        given = request.get("metadata")
        ours = {"job": job_id, "attempt": str(attempt), "tenant": tenant}
        body = {
            **request,
            "background": True,
            "store": True,
            "metadata": {**given, **ours} if isinstance(given, dict) else ours,
        }

        streams = body.get("stream") is True

        async def call() -> httpx2.Response:
            response = await self._sdk.post(
                "/responses",
                cast_to=httpx2.Response,
                body=body,
                stream=streams,
                stream_cls=STREAM,
                # Nobody promises that it is honoured, and nothing here relies on it.
                options={
                    "headers": {"Idempotency-Key": f"{job_id}/{attempt}"},
                    "timeout": httpx2.Timeout(self._create_timeout_s, connect=CONNECT_TIMEOUT_S, pool=POOL_TIMEOUT_S),
                },
            )
            assert isinstance(response, httpx2.Response)
            return response

        return await self._observed("create", call, self._create_timeout_s, first_answer if streams else whole_answer)

    async def retrieve(self, response_id: str) -> Reply:
        """`GET /responses/{id}`."""

        async def call() -> httpx2.Response:
            raw = await self._sdk.responses.with_raw_response.retrieve(response_id, timeout=self._look_timeouts())
            return raw.http_response

        return await self._observed("retrieve", call, self._look_timeout_s)

    async def cancel(self, response_id: str) -> Reply:
        """`POST /responses/{id}/cancel`."""

        async def call() -> httpx2.Response:
            raw = await self._sdk.responses.with_raw_response.cancel(response_id, timeout=self._look_timeouts())
            return raw.http_response

        return await self._observed("cancel", call, self._look_timeout_s)

    async def close(self) -> None:
        await self._sdk.close()

    def _look_timeouts(self) -> httpx2.Timeout:
        return httpx2.Timeout(self._look_timeout_s, connect=CONNECT_TIMEOUT_S, pool=POOL_TIMEOUT_S)

    async def _observed(self, operation: Operation, call: Call, timeout_s: float, read: Read | None = None) -> Reply:
        started_s = monotonic_s()
        reply = await reply_of(call, timeout_s, read or whole_answer)
        status_class = f"{reply.status // 100}xx" if isinstance(reply, Answer) else reply.kind
        self._metrics.request(operation, status_class, monotonic_s() - started_s)
        return reply


def make_sdk(
    base_url: str, api_key: SecretStr, connections_max: int, organization: str | None, project: str | None
) -> AsyncOpenAI:
    for name in ("openai", "httpx2", "httpcore2"):
        # At debug level the SDK logs whole requests, prompts among them; OPENAI_LOG=debug would do.
        logging.getLogger(name).setLevel(logging.WARNING)
    sdk = AsyncOpenAI(
        base_url=base_url,
        api_key=api_key.get_secret_value() or "no-key",
        max_retries=0,
        # aiohttp takes half of the processor time of httpx.
        http_client=DefaultAioHttpClient(
            follow_redirects=False,
            transport=AiohttpTransport(client=partial(_make_session, connections_max)),
        ),
    )
    # What was not given the SDK takes from its own environment variables; ours are the settings.
    sdk.organization = organization
    sdk.project = project
    sdk.admin_api_key = None
    sdk.webhook_secret = None
    sdk._custom_headers = {}  # noqa: SLF001 - OPENAI_CUSTOM_HEADERS; there is no argument that says none
    return sdk


def _make_session(connections_max: int) -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections_max, keepalive_timeout=KEEPALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
    )
    # It would send a look again on a fresh connection when a kept one has closed, past the global rate. There is no argument for it.
    session._retry_connection = False  # noqa: SLF001
    return session


async def reply_of(call: Call, timeout_s: float, read: Read) -> Reply:
    """One call, and what `read` makes of a good answer to it; whatever goes wrong comes back as data."""
    try:
        async with asyncio.timeout(timeout_s):
            return await read(await call())
    except openai.APIStatusError as error:
        return _answer(error.response)
    except openai.APIConnectionError as error:
        return Fault(_fault_kind(error), _names(error))
    except TimeoutError as error:
        return Fault("timeout", _names(error))
    except Exception as error:
        # Whatever it is, a request may have left: the caller must hear of it as data, and never as "not sent".
        return Fault("unexpected", _names(error))


def _fault_kind(error: openai.APIConnectionError) -> FaultKind:
    if any(isinstance(cause, NEVER_SENT) for cause in _causes(error)):
        return "never_sent"
    return "timeout" if any(isinstance(cause, TimeoutError) for cause in _causes(error)) else "lost"


def _causes(error: BaseException) -> Iterator[BaseException]:
    while error.__cause__ is not None:
        error = error.__cause__
        yield error


def _names(error: BaseException) -> str:
    *_, root = (None, *_causes(error))
    return f"{type(error).__name__} from {type(root).__name__}" if root is not None else type(error).__name__


async def whole_answer(response: httpx2.Response) -> Answer:
    return _answer(response)


async def first_answer(response: httpx2.Response) -> Answer:
    """Of a create that asked for a stream: read until the response is known. It runs on without us, in the background.

    Without such an event nobody knows whether it was taken: then there is no usable body.
    """
    try:
        if not is_event_stream(response):
            await response.aread()
            return _answer(response)
        reader = EventReader(FIRST_EVENT_BYTES_MAX)
        async for chunk in response.aiter_bytes():
            for data in reader.feed(chunk):
                event = parse(data)
                if isinstance(event, dict) and isinstance(event.get("response"), dict):
                    return Answer(response.status_code, _headers(response), event["response"], streamed=True)
        return Answer(response.status_code, _headers(response))
    finally:
        await response.aclose()


def is_event_stream(response: httpx2.Response) -> bool:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream"


def _headers(response: httpx2.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _answer(response: httpx2.Response) -> Answer:
    return Answer(response.status_code, _headers(response), parse(response.content))


def parse(content: bytes) -> Any:
    """JSON, or `NOT_JSON`. What comes out can be written as JSON again, but for nesting beyond what our JSON writes.

    orjson refuses some of what servers send: half a surrogate pair (a text that was cut within an emoji), NaN. Such an answer
    is read by the standard library, and what nobody can write again is replaced.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass
    try:
        return _writable(json.loads(content.decode("utf-8", "replace")))
    except (ValueError, RecursionError):
        return NOT_JSON


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_writable(name): _writable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_writable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and not isinstance(value, bool) and not -(1 << 63) <= value < 1 << 64:
        return float(value) if abs(value) < 1 << 1_000 else None
    return value
