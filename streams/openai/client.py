"""The only home of the OpenAI SDK. One call in, one HTTP request out, and whatever happened comes back as data.

Three of the SDK's defaults would spend a job's money twice, and are off: its retries (a create whose connection drops after it
was accepted is sent three times), redirects (a 307 loop made 21 POSTs of one create), and waiting without an end (the read
timeout restarts with each byte). Measured with openai 3.54.0; `tests/unit/streams/openai/test_client.py` counts the POSTs.
"""

import asyncio
import json
import logging
import math
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import httpx2
import openai
import orjson
from openai import AsyncOpenAI, AsyncStream
from pydantic import SecretStr

from backstop.runtime.process.clock import monotonic_s
from schemas.requests import METADATA_ATTEMPT, METADATA_JOB, METADATA_TENANT
from schemas.statuses import OPEN_RESPONSE_STATUSES
from streams.openai.answers import NOT_JSON, Answer, Fault, FaultKind, Reply
from streams.openai.sse import EventReader
from streams.openai.transport import HttpClient, tls_context, watched
from streams.provider import CallMetrics, Operation

CONNECT_TIMEOUT_S = 5.0
POOL_TIMEOUT_S = 10.0
"""aiohttp reckons all that it takes to have a connection into it: a turn in the pool, a proxy's tunnel, TLS."""

CONNECTIONS_SPARE = 8
EVENT_BYTES_MAX = 16 << 20
"""The first events hold the instructions and the tools that were asked for, the last one the output, too."""

STREAM: Final = AsyncStream[Any]
"""The SDK wants a type beside `stream`; asked for the HTTP response itself, it makes none."""

Call = Callable[[], Awaitable[httpx2.Response]]
Read = Callable[[httpx2.Response], Awaitable[Answer]]

NEVER_SENT: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
"""No connection was had, so no request has left. Judged by aiohttp's own error, and by how far the call has come: the SDK's transport
calls a connection that closed under an accepted create a "connect timeout" too."""

PROXY_REFUSED: Final = "the proxy answered "
PROXY_WANTS_CREDENTIALS: Final = 407
RESPONSE_ID_CHARS_MAX = 1_024
TEXT_CHARS_MAX = 500
"""Of an answer that is no JSON, so much is kept for people to read."""


class OpenAIClient:
    """Creates, retrieves and cancels. Nothing that the network or the server does makes it raise.

    The time limits are whole: a call is answered or given up within its `…_timeout_ms`, whatever the server does.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: SecretStr,
        metrics: CallMetrics,
        connections_max: int = 128,
        poll_timeout_ms: int = 30_000,
        organization: str | None = None,
        project: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._metrics = metrics
        self._poll_timeout_s = poll_timeout_ms / 1_000
        self._sdk = make_sdk(base_url, api_key, connections_max + CONNECTIONS_SPARE, organization, project, tls)

    async def create(
        self, request: Mapping[str, Any], *, job_id: str, attempt: int, tenant: str, timeout_ms: int
    ) -> Reply:
        """`POST /responses`, once, in the background and stored, with metadata by which the response can be found again."""
        given = request.get("metadata")
        ours = {METADATA_JOB: job_id, METADATA_ATTEMPT: str(attempt), METADATA_TENANT: tenant}
        body = {
            **request,
            "background": True,
            "store": True,
            "metadata": {**given, **ours} if isinstance(given, dict) else ours,
        }

        streams, timeout_s = body.get("stream") is True, timeout_ms / 1_000

        async def call() -> httpx2.Response:
            response = await self._sdk.post(
                "/responses",
                cast_to=httpx2.Response,
                # Written here, once: the SDK would write a text first, and of that the bytes.
                content=orjson.dumps(body),
                stream=streams,
                stream_cls=STREAM,
                # Nobody promises that it is honoured, and nothing here relies on it.
                options={
                    "headers": {"Idempotency-Key": f"{job_id}/{attempt}"},
                    "timeout": httpx2.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S, pool=POOL_TIMEOUT_S),
                },
            )
            assert isinstance(response, httpx2.Response)
            return response

        if not streams:
            return await self._observed("create", call, timeout_s)
        first = FirstAnswer()
        reply = await self._observed("create", call, timeout_s, first.read)
        # What was known before the stream broke is known.
        return first.known or reply if isinstance(reply, Fault) else reply

    async def retrieve(self, response_id: str, include: Sequence[str] = ()) -> Reply:
        """`GET /responses/{id}`, with what the create asked to `include`: a retrieve that does not ask gets it not."""

        async def call() -> httpx2.Response:
            options: Any = {"timeout": self._poll_timeouts(), "params": {"include": list(include)} if include else {}}
            response = await self._sdk.get(path_of(response_id), cast_to=httpx2.Response, options=options)
            assert isinstance(response, httpx2.Response)
            return response

        return await self._observed("retrieve", call, self._poll_timeout_s)

    async def cancel(self, response_id: str) -> Reply:
        """`POST /responses/{id}/cancel`."""

        async def call() -> httpx2.Response:
            options: Any = {"timeout": self._poll_timeouts()}
            path = f"{path_of(response_id)}/cancel"
            response = await self._sdk.post(path, cast_to=httpx2.Response, options=options)
            assert isinstance(response, httpx2.Response)
            return response

        return await self._observed("cancel", call, self._poll_timeout_s)

    async def close(self) -> None:
        await self._sdk.close()

    def _poll_timeouts(self) -> httpx2.Timeout:
        return httpx2.Timeout(self._poll_timeout_s, connect=CONNECT_TIMEOUT_S, pool=POOL_TIMEOUT_S)

    async def _observed(self, operation: Operation, call: Call, timeout_s: float, read: Read | None = None) -> Reply:
        started_s = monotonic_s()
        reply = await reply_of(call, timeout_s, read or whole_answer)
        status_class = f"{reply.status // 100}xx" if isinstance(reply, Answer) else reply.kind
        self._metrics.request(operation, status_class, monotonic_s() - started_s)
        if isinstance(reply, Fault) and PROXY_REFUSED in reply.detail:
            self._metrics.alarm("proxy")
        return reply


def make_sdk(
    base_url: str,
    api_key: SecretStr,
    connections_max: int,
    organization: str | None,
    project: str | None,
    tls: ssl.SSLContext | None = None,
) -> AsyncOpenAI:
    """The SDK, with nothing of its own environment but proxies and trust. An empty key: no `Authorization` is sent."""
    for name in ("openai", "httpx2", "httpcore2"):
        # At debug level the SDK logs whole requests, prompts among them; OPENAI_LOG=debug would do.
        logging.getLogger(name).setLevel(logging.WARNING)
    key = api_key.get_secret_value()
    sdk = AsyncOpenAI(
        base_url=base_url,
        api_key=key or "none",
        max_retries=0,
        # aiohttp takes half of the processor time of httpx.
        http_client=HttpClient(connections_max, tls or tls_context(None, None), keyless=not key),
    )
    # What was not given the SDK takes from its own environment variables; ours are the settings.
    sdk.organization = organization
    sdk.project = project
    sdk.admin_api_key = None
    sdk.webhook_secret = None
    sdk._custom_headers = {}  # noqa: SLF001 - OPENAI_CUSTOM_HEADERS; there is no argument that says none
    return sdk


def path_of(response_id: str) -> str:
    """The address of a response. Its id is opaque: any printable ASCII, and one path segment whatever stands in it.

    :raises ValueError: it is no such id, so nothing can be asked.
    """
    if not 0 < len(response_id) <= RESPONSE_ID_CHARS_MAX or not response_id.isascii() or not response_id.isprintable():
        raise ValueError(f"a response id is 1 to {RESPONSE_ID_CHARS_MAX} characters of printable ASCII")
    if response_id in (".", ".."):
        # `quote` leaves dots alone, and these two would be another address.
        return f"/responses/{response_id.replace('.', '%2E')}"
    return f"/responses/{quote(response_id, safe='')}"


async def reply_of(call: Call, timeout_s: float, read: Read) -> Reply:
    """One call, and what `read` makes of a good answer to it; whatever goes wrong comes back as data."""
    with watched() as progress:
        try:
            async with asyncio.timeout(timeout_s):
                return await read(await call())
        except openai.APIStatusError as error:
            if error.status_code == PROXY_WANTS_CREDENTIALS:
                # No provider asks for a proxy's credentials: a proxy has answered, and passed nothing on.
                return Fault("never_sent", f"{PROXY_REFUSED}{error.status_code}")
            return _answer(error.response)
        except openai.APIConnectionError as error:
            return Fault("never_sent" if progress.nothing_left else _fault_kind(error), _names(error))
        except TimeoutError as error:
            return Fault("never_sent" if progress.nothing_left else "timeout", _names(error))
        except Exception as error:
            # Whatever it is, a request may have left: the caller must hear of it as data.
            return Fault("never_sent" if progress.nothing_left else "unexpected", _names(error))


def _fault_kind(error: openai.APIConnectionError) -> FaultKind:
    if any(isinstance(cause, NEVER_SENT) for cause in _causes(error)):
        return "never_sent"
    return "timeout" if any(isinstance(cause, TimeoutError) for cause in _causes(error)) else "lost"


def _causes(error: BaseException) -> Iterator[BaseException]:
    while error.__cause__ is not None:
        error = error.__cause__
        yield error


def _names(error: BaseException) -> str:
    """Names of classes only, as a text may hold anything; and the status of a proxy that opened no tunnel."""
    *_, root = (None, *_causes(error))
    names = f"{type(error).__name__} from {type(root).__name__}" if root is not None else type(error).__name__
    refusals = (cause for cause in _causes(error) if isinstance(cause, aiohttp.ClientHttpProxyError))
    refusal = next(refusals, None)
    return f"{names}: {PROXY_REFUSED}{refusal.status} to CONNECT" if refusal is not None else names


async def whole_answer(response: httpx2.Response) -> Answer:
    return _answer(response)


class FirstAnswer:
    """Of a create that asked for a stream: read until the response is known. It runs on without us, in the background.

    A server that says that it does not run in the background may end with the connection: it is heard to its end, and its last object is the
    answer. An error that comes instead is the body, as it would be of an answer that is no stream. Without either nobody knows whether the
    create was taken: then there is no usable body, and `text` says so.
    """

    def __init__(self) -> None:
        self.known: Answer | None = None
        self._events = 0
        self._beginning = b""

    async def read(self, response: httpx2.Response) -> Answer:
        try:
            if not is_event_stream(response):
                await response.aread()
                return _answer(response)
            reader = EventReader(EVENT_BYTES_MAX)
            async for chunk in response.aiter_bytes():
                if self._take(response, reader.feed(chunk), chunk):
                    break
        finally:
            await response.aclose()
        return self.known or Answer(response.status_code, _headers(response), streamed=True, text=self._said())

    def _take(self, response: httpx2.Response, events: list[bytes], chunk: bytes) -> bool:
        """Whether nothing more need be heard."""
        self._beginning = (self._beginning + chunk)[:TEXT_CHARS_MAX]
        for data in events:
            self._events += 1
            event = parse(data)
            body, error = _response_of(event), _error_of(event)
            if body is not None or (error is not None and self.known is None):
                self.known = Answer(
                    response.status_code, _headers(response), error if body is None else body, streamed=True
                )
            # An error after a response is no refusal: what became of it a poll must tell.
            if error is not None or (body is not None and not _is_held(body)):
                return True
        return False

    def _said(self) -> str:
        said = f"the stream ended after {self._events} events, without a response: {_text(self._beginning)}"
        return said[:TEXT_CHARS_MAX]


def _response_of(event: Any) -> dict[str, Any] | None:
    """The response that an event holds."""
    response = event.get("response") if isinstance(event, dict) else None
    return dict(response) if isinstance(response, dict) else None


def _error_of(event: Any) -> dict[str, Any] | None:
    """The error that an event is, in the form that it has in an answer that is no stream."""
    if not isinstance(event, dict) or isinstance(event.get("response"), dict):
        return None
    if event.get("error"):
        return {"error": event["error"]}
    if event.get("type") == "error":
        # OpenAI's own form has code, message and param beside the type of the event.
        return {"error": {name: value for name, value in event.items() if name not in ("type", "sequence_number")}}
    return None


def _is_held(response: Mapping[str, Any]) -> bool:
    """The server says that the run hangs on this connection, and it is not over."""
    return response.get("background") is False and response.get("status") in OPEN_RESPONSE_STATUSES


def is_event_stream(response: httpx2.Response) -> bool:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream"


def _headers(response: httpx2.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _answer(response: httpx2.Response) -> Answer:
    body = parse(response.content)
    text = _text(response.content) if body is NOT_JSON else ""
    return Answer(response.status_code, _headers(response), body, text=text)


def _text(content: bytes) -> str:
    """The beginning, for people. A character has four bytes at most."""
    return content[: 4 * TEXT_CHARS_MAX].decode("utf-8", "replace")[:TEXT_CHARS_MAX]


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
