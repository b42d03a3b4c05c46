"""Calls to the provider with the OpenAI SDK's requests and HTTP client (`streams.openai.requests`).

One call makes one HTTP request; every outcome is returned as data. Three defaults of the SDK could pay for a job twice,
and do not apply: retries (a create whose connection drops after it was accepted is sent three times), redirects (a 307
loop made 21 POSTs of one create), and unlimited waits (the read timeout restarts with each byte). Measured with openai
3.54.0; `test_client.py` counts the POSTs.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import httpx2
import orjson
import structlog

from backstop.runtime.process.clock import monotonic_s
from backstop.runtime.traces import traceparent_now
from schemas.requests import METADATA_ATTEMPT, METADATA_JOB, METADATA_TENANT
from schemas.statuses import OPEN_RESPONSE_STATUSES
from schemas.traces import TRACEPARENT
from streams.answer_memory import holding
from streams.openai.account import OpenAIAccount
from streams.openai.answers import Fault, FaultKind, ProviderAnswer, Reply
from streams.openai.bounded import (
    BROKEN,
    CUT,
    LARGE,
    AnswerLimits,
    Reading,
    begun_answer,
    is_event_stream,
    pieces_of,
)
from streams.openai.foreign_json import NOT_JSON, beginning, error_of_event, parse, unwrapped
from streams.openai.large_reader import Large
from streams.openai.requests import RequestSender
from streams.openai.sdk import AsyncOpenAI
from streams.openai.sse import EventReader, EventTooLargeError
from streams.openai.transport import HttpClient, tls_context, watched
from streams.provider import CallLimits, CallMetrics, Operation

log = structlog.get_logger()

CONNECT_TIMEOUT_S = 5.0
POOL_TIMEOUT_S = 10.0
"""In aiohttp this covers all that it takes to get a connection: a slot in the pool, a proxy's tunnel, TLS."""

CONNECTIONS_SPARE = 8
EVENT_BYTES_MAX = 16 << 20
"""Limit of one event. The first events contain the request's instructions and tools; the last one also the output."""

Call = Callable[[], Awaitable[httpx2.Response]]
Read = Callable[[httpx2.Response], Awaitable[ProviderAnswer]]

NEVER_SENT: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
"""Errors without a connection, so that no request was sent. Judged by aiohttp's own error and the progress of the call:
the SDK's transport also calls it a "connect timeout" if a connection closes after a create was accepted."""

CONNECTION_ERRORS: Final = (httpx2.RequestError, ssl.SSLError)
"""A connection that was not made, or that broke or fell silent."""

PROXY_REFUSED: Final = "the proxy answered "
PROXY_WANTS_CREDENTIALS: Final = 407
RESPONSE_ID_CHARS_MAX = 1_024
TEXT_CHARS_MAX = 500
"""How much of an answer that is not JSON is kept, for operators."""


class OpenAIClient:
    """Creates, retrieves and cancels. Failures of the network and the server are returned, never raised.

    A time limit covers the whole call: each call returns within its `…_timeout_ms`, whatever the server does.
    """

    def __init__(
        self,
        account: OpenAIAccount,
        metrics: CallMetrics,
        limits: CallLimits,
    ) -> None:
        self._metrics = metrics
        self._poll_timeout_s = limits.poll_timeout_ms / 1_000
        self._poll_timeouts = httpx2.Timeout(self._poll_timeout_s, connect=CONNECT_TIMEOUT_S, pool=POOL_TIMEOUT_S)
        self._answers = AnswerLimits.of(limits)
        self._requests = RequestSender(make_sdk(account, limits.calls_max + CONNECTIONS_SPARE, self._answers))

    async def create(
        self, request: Mapping[str, Any], *, job_id: str, attempt: int, tenant: str, timeout_ms: int, rest: bytes = b""
    ) -> Reply:
        """`POST /responses`, once, with `background`, `store`, and metadata to find the response again. `rest`: see
        `Provider.create`.
        """
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
            return await self._requests.send(
                "POST",
                "/responses",
                content=(orjson.dumps(body),) if not rest else (orjson.dumps(body)[:-1], b",", rest[1:]),
                # The API does not promise to honour this header, and nothing here relies on it.
                headers={"Idempotency-Key": f"{job_id}/{attempt}"} | _trace_header(),
                timeouts=httpx2.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S, pool=POOL_TIMEOUT_S),
                stream=streams,
            )

        if not streams:
            return await self._observed("create", call, timeout_s)
        first = FirstAnswer(self._answers)
        reply = await self._observed("create", call, timeout_s, first.read)
        # The stream may break after the response was known.
        return first.known or reply if isinstance(reply, Fault) else reply

    async def ask(self, body: Mapping[str, Any], timeout_ms: int) -> Reply:
        """`POST /responses`, once, with this body as it is: nothing of a job is in it."""
        timeout_s = timeout_ms / 1_000

        async def call() -> httpx2.Response:
            timeouts = httpx2.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S, pool=POOL_TIMEOUT_S)
            return await self._requests.send("POST", "/responses", content=(orjson.dumps(body),), timeouts=timeouts)

        return await self._observed("create", call, timeout_s)

    async def retrieve(self, response_id: str, include: Sequence[str] = ()) -> Reply:
        """`GET /responses/{id}`, with `include` as in the create: without it the object lacks these fields."""

        async def call() -> httpx2.Response:
            params = {"include": list(include)} if include else None
            return await self._requests.send("GET", path_of(response_id), params=params, timeouts=self._poll_timeouts)

        return await self._observed("retrieve", call, self._poll_timeout_s)

    async def cancel(self, response_id: str) -> Reply:
        """`POST /responses/{id}/cancel`."""

        async def call() -> httpx2.Response:
            return await self._requests.send("POST", f"{path_of(response_id)}/cancel", timeouts=self._poll_timeouts)

        return await self._observed("cancel", call, self._poll_timeout_s)

    async def delete(self, response_id: str) -> Reply:
        """`DELETE /responses/{id}`."""

        async def call() -> httpx2.Response:
            return await self._requests.send("DELETE", path_of(response_id), timeouts=self._poll_timeouts)

        return await self._observed("delete", call, self._poll_timeout_s)

    async def close(self) -> None:
        await self._requests.close()

    async def _observed(self, operation: Operation, call: Call, timeout_s: float, read: Read | None = None) -> Reply:
        started_s = monotonic_s()
        reply = await reply_of(call, timeout_s, read or whole_answer, streams=read is not None)
        status_class = f"{reply.status // 100}xx" if isinstance(reply, ProviderAnswer) else reply.kind
        self._metrics.request(operation, status_class, monotonic_s() - started_s)
        if isinstance(reply, Fault) and PROXY_REFUSED in reply.detail:
            self._metrics.alarm("proxy")
        if isinstance(reply, ProviderAnswer) and reply.truncated:
            self._metrics.alarm("answer_too_large")
            log.error("answer_too_large", operation=operation, http_status=reply.status)
        return reply


def _trace_header() -> dict[str, str]:
    traceparent = traceparent_now()
    return {} if traceparent is None else {TRACEPARENT: traceparent}


def make_sdk(account: OpenAIAccount, connections_max: int, answers: AnswerLimits) -> AsyncOpenAI:
    """The SDK client. Its environment counts for proxies and trust only. With an empty key: no `Authorization`."""
    for name in ("openai", "httpx2", "httpcore2"):
        # At debug level (OPENAI_LOG=debug) the SDK logs whole requests, with prompts.
        logging.getLogger(name).setLevel(logging.WARNING)
    key = account.api_key.get_secret_value()
    sdk = AsyncOpenAI(
        base_url=account.base_url,
        api_key=key or "none",
        max_retries=0,
        # aiohttp needs half of httpx's processor time.
        http_client=HttpClient(connections_max, account.tls or tls_context(None, None), answers, keyless=not key),
    )
    # The SDK reads missing values from environment variables. Only Backstop's settings count.
    sdk.organization = account.organization
    sdk.project = account.project
    sdk.admin_api_key = None
    sdk.webhook_secret = None
    sdk._custom_headers = {}  # noqa: SLF001 - from OPENAI_CUSTOM_HEADERS; no argument turns them off
    return sdk


def path_of(response_id: str) -> str:
    """The path of a response. The id is opaque: any printable ASCII, encoded as one path segment.

    :raises ValueError: the id is empty, too long or not printable ASCII, so no call is possible.
    """
    if not 0 < len(response_id) <= RESPONSE_ID_CHARS_MAX or not response_id.isascii() or not response_id.isprintable():
        raise ValueError(f"a response id is 1 to {RESPONSE_ID_CHARS_MAX} characters of printable ASCII")
    if response_id in (".", ".."):
        # `quote` does not encode dots, and these two segments would change the path.
        return f"/responses/{response_id.replace('.', '%2E')}"
    return f"/responses/{quote(response_id, safe='')}"


async def reply_of(call: Call, timeout_s: float, read: Read, *, streams: bool = False) -> Reply:
    """Make one call, and `read` its answer if that is good. Errors are returned as data.

    With `streams`, a stream of events comes unread to `read`. All other answers are whole by then, up to the limit.
    """
    with watched(streams=streams) as progress:
        try:
            async with asyncio.timeout(timeout_s):
                response = await call()
                if response.is_success:
                    return await read(response)
            if response.status_code == PROXY_WANTS_CREDENTIALS:
                # Only a proxy answers 407, and it passed nothing on.
                return Fault("never_sent", f"{PROXY_REFUSED}{response.status_code}")
            return _answer(response)
        except CONNECTION_ERRORS as error:
            return Fault("never_sent" if progress.nothing_left else _fault_kind(error), _names(error))
        except TimeoutError as error:
            kind: FaultKind = "never_sent" if progress.nothing_left else "timeout"
            return _begun(progress.reading) or Fault(kind, _names(error))
        except Exception as error:
            # The request may have been sent, so the caller needs a fault, not an exception.
            return Fault("never_sent" if progress.nothing_left else "unexpected", _names(error))


def _begun(reading: Reading) -> ProviderAnswer | None:
    """What came of an answer that did not end in time, if it tells something: members of an object, or a status.
    None also where it can't be read.
    """
    try:
        begun = begun_answer(reading)
        answer = None if begun is None else _answer(begun)
    except Exception:
        # The request may have been sent, so the caller needs a fault, not an exception.
        return None
    return None if answer is None or (answer.body is NOT_JSON and answer.status < 300) else answer


def _fault_kind(error: Exception) -> FaultKind:
    if any(isinstance(each, NEVER_SENT) for each in _chain(error)):
        return "never_sent"
    return "timeout" if any(isinstance(each, TimeoutError) for each in _chain(error)) else "lost"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes."""
    yield error
    while error.__cause__ is not None:
        error = error.__cause__
        yield error


def _names(error: BaseException) -> str:
    """Names of exception classes, as texts may have secrets; and the status of a proxy that opened no tunnel."""
    *_, root = _chain(error)
    names = type(error).__name__ if root is error else f"{type(error).__name__} from {type(root).__name__}"
    refusals = (each for each in _chain(error) if isinstance(each, aiohttp.ClientHttpProxyError))
    refusal = next(refusals, None)
    return f"{names}: {PROXY_REFUSED}{refusal.status} to CONNECT" if refusal is not None else names


async def whole_answer(response: httpx2.Response) -> ProviderAnswer:
    return _answer(response)


class FirstAnswer:
    """Reads the stream of a create until the response is known. The response continues in the background without it.

    If the object says that it does not run in the background, closing the connection might end it: then the stream is
    read to its end, and the last object is the answer. An error event instead of an object becomes the body, as in an
    answer that is not a stream. With neither, the outcome is unknown: the body is `NOT_JSON`, and `text` says why.
    """

    def __init__(self, answers: AnswerLimits) -> None:
        self._answers = answers
        self.known: ProviderAnswer | None = None
        self._events = 0
        self._beginning = b""
        self._too_large = False

    async def read(self, response: httpx2.Response) -> ProviderAnswer:
        try:
            if not is_event_stream(response):
                return _answer(response)
            reader = EventReader(EVENT_BYTES_MAX)
            with holding() as hold:
                async for chunk in pieces_of(response):
                    events = reader.feed(chunk)
                    await self._answers.memory.resize_for(hold, reader.held_bytes, events)
                    if await self._take(response, events, chunk):
                        break
                else:  # An event without an empty line behind it, or lines that end in CR alone.
                    await self._take(response, reader.feed(b"\n\n"), b"")
        except EventTooLargeError:
            self._too_large = True
        finally:
            await response.aclose()
        return self.known or ProviderAnswer(response.status_code, _headers(response), streamed=True, text=self._said())

    async def _take(self, response: httpx2.Response, events: list[bytes], chunk: bytes) -> bool:
        """Take some events. True if the answer is complete."""
        self._beginning = (self._beginning + chunk)[:TEXT_CHARS_MAX]
        for data in events:
            self._events += 1
            read = await self._answers.event(data)
            body, error = _response_of(read.head), _error_of(read.head)
            if body is not None or (error is not None and self.known is None):
                whole = read.text if body is not None else None
                body_or_error = error if body is None else body
                self.known = ProviderAnswer(
                    response.status_code, _headers(response), body_or_error, whole, streamed=True
                )
            # An error after a response object is no refusal: a poll must find out how the response ended.
            if error is not None or (body is not None and not _is_held(body)):
                return True
        return False

    def _said(self) -> str:
        how = "sent an event that is too large" if self._too_large else "ended"
        said = f"the stream {how} after {self._events} events, without a response: {_text(self._beginning)}"
        return said[:TEXT_CHARS_MAX]


def _response_of(event: Any) -> dict[str, Any] | None:
    """The response object in an event."""
    response = event.get("response") if isinstance(event, dict) else None
    return dict(response) if isinstance(response, dict) else None


def _error_of(event: Any) -> dict[str, Any] | None:
    """The error of an error event, in the form of an answer that is not a stream."""
    if not isinstance(event, dict) or isinstance(event.get("response"), dict):
        return None
    return error_of_event(event)


def _is_held(response: Mapping[str, Any]) -> bool:
    """Whether the run depends on this connection (`background` is false) and has not ended."""
    return response.get("background") is False and response.get("status") in OPEN_RESPONSE_STATUSES


def _headers(response: httpx2.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _answer(response: httpx2.Response) -> ProviderAnswer:
    cut, large = CUT in response.extensions, response.extensions.get(LARGE)
    broken = False
    if isinstance(large, Large):
        body, whole = large.head, large.text
    else:
        body, whole = NOT_JSON if cut else parse(response.content), None
    if body is NOT_JSON:
        begun = beginning(response.content)  # A connection or a proxy broke off. The id may be known.
        body, broken = begun or NOT_JSON, not cut and (bool(begun) or BROKEN in response.extensions)
    text = _text(response.content) if body is NOT_JSON else ""
    return ProviderAnswer(
        response.status_code, _headers(response), unwrapped(body), whole, text=text, truncated=cut, broken=broken
    )


def _text(content: bytes) -> str:
    """The beginning as text. A character has at most four bytes."""
    return content[: 4 * TEXT_CHARS_MAX].decode("utf-8", "replace")[:TEXT_CHARS_MAX]
