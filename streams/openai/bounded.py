"""Answers of the provider are read here, up to a size and a number of values. What exceeds a limit is cut.

A stream of events that the call asked for is passed on unread: its reader bounds each event (`sse`).
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Self

import aiohttp
import httpx2
import structlog
from multidict import CIMultiDict

from schemas.shape import ShapeLimits
from streams.answer_memory import FREE_BYTES, AnswerMemory, Hold, cost_bytes
from streams.openai import large_json
from streams.openai.broken_http import RawAnswer, raw_answer
from streams.openai.foreign_json import parse
from streams.openai.kept_handler import KeptAnswer, kept_of
from streams.openai.large_reader import Large, LargeReader
from streams.openai.sdk import AiohttpResponseStream, AiohttpTransport, map_aiohttp_exceptions
from streams.openai.sse import EventTooLargeError
from streams.openai.unpacking import Unpacker, packing_of
from streams.provider import CallLimits

log = structlog.get_logger()

BEGINNING_BYTES: Final = 64 << 10
"""How much is kept of an answer that is cut: enough for the status and the error of a response object."""

SHAPE: Final = ShapeLimits(values_max=2_000_000, depth_max=1 << 30)
"""Log probabilities of 15,000 tokens with 20 alternatives each are some 2,000,000 values, and cost about 130 MB. The
parser has its own limit of nesting."""

PIECE_BYTES: Final = 256 << 10
"""After a larger piece other calls get their turn: a compressed answer unpacks without waiting for the network."""

LARGE_COST: Final = 3
"""Multiple of a large answer's bytes: its parts, or what the process that reads it has beside its values, and the JSON
that is stored."""

CUT: Final = "backstop_cut"
"""An extension of a response whose content is only the beginning of the answer."""

LARGE: Final = "backstop_large"
"""An extension of a response whose content was large: what a process of its own read of it (`Large`)."""

BROKEN: Final = "backstop_broken"
"""An extension of a response that broke off, or was no right HTTP: its content is what came of it."""

EVENTS_PIECE_BYTES: Final = 32 << 10
"""32,000 empty lines take some 10 ms."""

STREAMS_SHARE: Final = 4
"""Events of streams may have a quarter of the memory that answers may have, beside it."""

_OF_THE_BODY: Final = frozenset((b"content-encoding", b"content-length", b"transfer-encoding"))


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """How much is read of one answer, and the memory of all of them."""

    bytes_max: int
    memory: AnswerMemory
    reader: LargeReader

    @classmethod
    def of(cls, limits: CallLimits) -> Self:
        return cls(limits.answer_bytes_max, AnswerMemory(limits.answers_memory_bytes_max), LargeReader(SHAPE))

    @classmethod
    def of_streams(cls, limits: CallLimits) -> Self:
        """Streams have memory of their own, so that no call waits for an event."""
        memory = AnswerMemory(limits.answers_memory_bytes_max // STREAMS_SHARE)
        return cls(limits.answer_bytes_max, memory, LargeReader(SHAPE))

    async def event(self, data: bytes) -> Large:
        """An event of a stream, any JSON or `NOT_JSON`.

        :raises EventTooLargeError: it has more values than an answer may have.
        """
        if not large_json.is_large(data):
            return Large(parse(data), None)
        read = await self.reader.read([data])
        if read is None:
            raise EventTooLargeError
        return read


@dataclass(slots=True)
class Reading:
    """How one call reads its answer."""

    hold: Hold
    streams: bool = False
    """The call reads a stream of events by itself."""
    connected: bool = False
    """The call has a connection to the provider: what comes on it is no proxy's."""
    kept: KeptAnswer | None = None
    """The answer whose body is being read."""


class BoundedTransport(AiohttpTransport):
    """aiohttp's transport, whose answers are read whole before they are returned. `reading` is the call's."""

    def __init__(self, limits: AnswerLimits, reading: Callable[[], Reading], **options: Any) -> None:
        super().__init__(**options)
        self._limits = limits
        self._reading = reading

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        reading = self._reading()
        try:
            if not reading.streams:
                return await self._plain(request, reading)
            response = await super().handle_async_request(request)
        except aiohttp.ClientResponseError as error:
            if not reading.connected or (said := raw_answer(kept_of(error))) is None:
                raise
            log.warning("answer_is_no_right_http", http_status=said.status, error=type(error.__cause__).__name__)
            return response_of(said, request)
        if response.is_success and is_event_stream(response):
            return response
        response.request = request
        content, extensions = await self._content(response.headers, pieces_as_sent(response), reading)
        return httpx2.Response(
            status_code=response.status_code,
            headers=[(name, value) for name, value in response.headers.raw if name.lower() not in _OF_THE_BODY],
            content=content,
            request=request,
            extensions={**response.extensions, **extensions},
        )

    async def _plain(self, request: httpx2.Request, reading: Reading) -> httpx2.Response:
        """One call and its whole answer. The parent would make a response that is read through two more iterators."""
        answer = await self._sent(request)
        reading.kept = KeptAnswer.on(answer.connection)
        headers = [(name, value) for name, value in answer.raw_headers if name.lower() not in _OF_THE_BODY]
        stream = AiohttpResponseStream(answer)
        content, extensions = await self._content(
            answer.headers, _closed_after(aiter(stream), stream.aclose), reading
        )  # fmt: skip
        response = httpx2.Response(
            answer.status, headers=headers, stream=stream, request=request, extensions=extensions
        )
        response._content, response.is_closed = content, True  # noqa: SLF001 - httpx would read the bytes once more
        if all(value.isascii() for _, value in headers):
            response.headers.encoding = "ascii"  # Else httpx decodes each of them to find it out.
        return response

    async def _sent(self, request: httpx2.Request) -> aiohttp.ClientResponse:
        """Send a request as the parent does; the answer is unread."""
        if not isinstance(self.client, aiohttp.ClientSession):
            self.client = self.get_client()
        timeout = request.extensions["timeout"]
        with map_aiohttp_exceptions():
            try:
                data: Any = request.content or None
            except httpx2.RequestNotRead:
                data = request.stream
                request.headers.pop("transfer-encoding", None)  # aiohttp sets it.
            return await self.client.request(
                request.method,
                str(request.url),
                headers=CIMultiDict((name.decode(), value.decode()) for name, value in request.headers.raw),
                data=data,
                allow_redirects=False,
                auto_decompress=False,
                compress=False,
                timeout=aiohttp.ClientTimeout(
                    sock_connect=timeout["connect"], sock_read=timeout["read"], connect=timeout["pool"]
                ),
            )

    async def _content(
        self, headers: Mapping[str, str], sent: AsyncGenerator[bytes, None], reading: Reading
    ) -> tuple[bytes, dict[str, Any]]:
        """The answer, or its beginning with what was read of the rest."""
        bytes_max, announced = self._limits.bytes_max, headers.get("content-length", "")
        pieces = unpacked(sent, headers.get("content-encoding", ""))
        if announced.isdecimal() and int(announced) > bytes_max:
            return _beginning(await self._read(pieces, reading, BEGINNING_BYTES)), {CUT: True}
        try:
            parts = await self._read(pieces, reading, bytes_max + 1)
        except (httpx2.ReadError, httpx2.RemoteProtocolError):  # Its head came, and nothing that the parser took.
            begun = begun_answer(reading)
            return b"" if begun is None else begun.content, {BROKEN: True}
        size_bytes = sum(map(len, parts))
        if size_bytes > bytes_max:
            return _beginning(parts), {CUT: True}
        if size_bytes <= large_json.BYTES_MAX and not large_json.is_large(content := b"".join(parts)):
            if size_bytes > FREE_BYTES:
                await self._limits.memory.resize(reading.hold, cost_bytes(content))
            return content, {}
        return await self._large(parts, size_bytes, reading)

    async def _large(self, parts: list[bytes], size_bytes: int, reading: Reading) -> tuple[bytes, dict[str, Any]]:
        beginning = _beginning(parts)
        await self._limits.memory.resize(reading.hold, LARGE_COST * size_bytes)
        read = await self._limits.reader.read(parts)
        return beginning, {CUT: True} if read is None else {LARGE: read}

    async def _read(self, pieces: AsyncGenerator[bytes, None], reading: Reading, bytes_max: int) -> list[bytes]:
        """Up to `bytes_max`, unpacked. A connection that was not read to its end is closed. Where it breaks, what came
        is returned: a response's id stands at the beginning.
        """
        parts: list[bytes] = []
        size_bytes = 0
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    parts.append(piece[: bytes_max - size_bytes])
                    size_bytes += len(parts[-1])
                    if size_bytes == bytes_max:
                        break
                    if size_bytes > FREE_BYTES:
                        await self._limits.memory.resize(reading.hold, 2 * size_bytes)
                    if len(piece) > PIECE_BYTES:
                        await asyncio.sleep(0)
        except (httpx2.ReadError, httpx2.RemoteProtocolError):
            if not parts:
                raise
        return parts


def begun_answer(reading: Reading) -> httpx2.Response | None:
    """What came of an answer whose body is being read, or was when the call ended; None if there is none."""
    said = None if reading.kept is None else raw_answer(reading.kept.content)
    return None if said is None else response_of(said)


def response_of(said: RawAnswer, request: httpx2.Request | None = None) -> httpx2.Response:
    """An answer that broke off, or was no right HTTP."""
    announced = b",".join(value for name, value in said.headers if name == b"content-encoding")
    content, packing = said.body, packing_of(said.body[:2], announced.decode("ascii", "replace"))
    if packing is not None:
        content = _beginning([*islice(Unpacker(packing).feed(content), 1)])
    headers = [(name, value) for name, value in said.headers if name not in _OF_THE_BODY]
    return httpx2.Response(
        said.status, headers=headers, content=content, request=request, extensions={BROKEN: True}
    )  # fmt: skip


async def _closed_after(
    pieces: AsyncIterator[bytes], aclose: Callable[[], Awaitable[None]]
) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in pieces:
            yield piece
    finally:
        await aclose()


def _beginning(parts: list[bytes]) -> bytes:
    beginning = b""
    for part in parts:
        if len(beginning) >= BEGINNING_BYTES:
            break
        beginning += part[: BEGINNING_BYTES - len(beginning)]
    return beginning


def pieces_as_sent(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    return _closed_after(response.aiter_raw(), response.aclose)


async def unpacked(sent: AsyncGenerator[bytes, None], announced: str) -> AsyncGenerator[bytes, None]:
    """The pieces of an answer, unpacked if they are packed. `announced`: as its header says."""
    begins = b""
    async with aclosing(sent):
        async for piece in sent:
            begins += piece
            if len(begins) > 1:  # So much tells a packing.
                break
        packing = packing_of(begins, announced)
        if packing is None:
            yield begins
            async for piece in sent:
                yield piece
            return
        unpacker = Unpacker(packing)
        for piece in unpacker.feed(begins):
            yield piece
        async for packed in sent:
            for piece in unpacker.feed(packed):
                yield piece


async def pieces_of(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """The stream as it comes, unpacked, in small pieces, with a turn for other calls after each large one."""
    pieces = unpacked(pieces_as_sent(response), response.headers.get("content-encoding", ""))
    async with aclosing(pieces):
        async for chunk in pieces:
            for at in range(0, len(chunk), EVENTS_PIECE_BYTES):
                yield chunk[at : at + EVENTS_PIECE_BYTES]
                if len(chunk) > EVENTS_PIECE_BYTES:
                    await asyncio.sleep(0)


def is_event_stream(response: httpx2.Response) -> bool:
    """Whether its events are still to be read."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "text/event-stream" and BROKEN not in response.extensions
