"""Large answers: the memory of all of them, and how they are sent.

A stored body of 64 MiB costs several times its size until its answer is sent, and a client may read slowly, or not at
all. So what a request reads of the blob store is counted until its answer is sent, shared by tenant and key, and a
client must take each piece of a large answer, and all of it, in time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from backstop.runtime.authority import authority_of, owner_now
from backstop.runtime.blobs import BlobsPerTenant, BlobStore, blobs_of, name_of
from backstop.runtime.shares import Owner, Shares
from receiver.limits import PLAIN_COST, Limits
from receiver.problems import Refusal, unavailable

PIECE_BYTES: Final = 64 << 10
"""An answer up to this size is sent at once and not counted: buffers of the system take it."""

_BUSY: Final = "The memory for large answers is in use; send the request again."


class _Held:
    """What one request holds, by the hash of each body that it read."""

    def __init__(self, memory: "ReadMemory", owner: Owner) -> None:
        self.memory = memory
        self.owner = owner
        self.bytes_of: dict[str, int] = {}
        self.to_the_end_bytes = 0


_HELD: ContextVar[_Held | None] = ContextVar("held", default=None)


def let_go() -> None:
    """The current request needs nothing more of what it has read so far."""
    held = _HELD.get()
    if held is not None:
        held.memory.give_back(held)


def keep(size_bytes: int) -> None:
    """The current request needs so much until its end, whatever it lets go.

    :raises Refusal: 503, there is no room.
    """
    held = _HELD.get()
    if held is not None and size_bytes > PIECE_BYTES:
        held.to_the_end_bytes += held.memory.reserve(held.owner, size_bytes)


class ReadMemory:
    def __init__(self, bytes_max: int, retry_after_s: int) -> None:
        self._shares = Shares(bytes_max, greed=1)
        self._alone_bytes_max = bytes_max // 2
        self._retry_after_s = retry_after_s

    @contextmanager
    def holding(self) -> Iterator[None]:
        """What the request takes inside of the block is held until its end."""
        held = _Held(self, owner_now())
        token = _HELD.set(held)
        try:
            yield
        finally:
            _HELD.reset(token)
            self.give_back(held)
            self._shares.give_back(held.owner, held.to_the_end_bytes)

    def give_back(self, held: _Held) -> None:
        """All bodies that the request has read."""
        self._shares.give_back(held.owner, sum(held.bytes_of.values()))
        held.bytes_of.clear()

    def reserve(self, owner: Owner, size_bytes: int) -> int:
        """Returns what is counted: of more than a tenant's share, the share.

        :raises Refusal: 503, there is no room.
        """
        size_bytes = min(size_bytes, self._alone_bytes_max)
        if not self._shares.ask_sparing(owner, size_bytes):
            raise unavailable("busy", _BUSY, self._retry_after_s)
        return size_bytes

    def take(self, name: str, size_bytes: int) -> None:
        """Count a body that the current request has read, once.

        :raises Refusal: 503, there is no room.
        """
        held = _HELD.get()
        if held is None or size_bytes <= PIECE_BYTES or name in held.bytes_of:
            return
        held.bytes_of[name] = self.reserve(held.owner, size_bytes)

    def keep_only(self, size_bytes: int) -> None:
        """The current request needs no more than its answer from now on.

        :raises Refusal: 503, there is no room.
        """
        let_go()
        self.take("answer", size_bytes)


class CountedBlobs(BlobsPerTenant):
    """A `BlobStore` whose bodies count, with what is made of them, as long as the request that reads them."""

    def __init__(self, blobs: BlobStore, memory: ReadMemory) -> None:
        self._blobs = blobs
        self._memory = memory

    def of(self, tenant: str) -> "CountedBlobs":
        return CountedBlobs(blobs_of(self._blobs, tenant), self._memory)

    def name_of(self, tenant: str, sha256: str) -> str:
        return name_of(self._blobs, tenant, sha256)

    async def put(self, data: bytes | memoryview) -> str:
        return await self._blobs.put(data)

    async def get(self, sha256: str) -> bytes | memoryview:
        data = await self._blobs.get(sha256)
        self._memory.take(sha256, PLAIN_COST * len(data))
        return data

    async def has(self, mark: bytes) -> bool:
        return await self._blobs.has(mark)


def sending(memory: ReadMemory, limits: Limits) -> Middleware:
    """The innermost middleware: sends large answers piece by piece, and holds their memory until then."""

    @web.middleware
    async def send(request: web.Request, handler: Handler) -> web.StreamResponse:
        with memory.holding():
            response = await handler(request)
            body = response.body if isinstance(response, web.Response) else None
            if not isinstance(body, bytes) or len(body) <= PIECE_BYTES or request.method == hdrs.METH_HEAD:
                return response
            with suppress(*(() if request.method == hdrs.METH_GET else (Refusal,))):  # a change was made: answer it
                memory.keep_only(len(body))
            return await _sent(request, response, body, limits)

    return send


async def _sent(
    request: web.Request, response: web.StreamResponse, body: bytes, limits: Limits
) -> web.StreamResponse:  # fmt: skip
    answer = web.StreamResponse(status=response.status, reason=response.reason, headers=response.headers)
    answer.content_length = len(body)
    if not request.content.is_eof():
        answer.force_close()  # as any answer to a request whose body was not read
    try:
        async with asyncio.timeout(limits.stream_write_s + len(body) / limits.answer_bytes_per_s_min):
            await answer.prepare(request)
            await write_pieces(partial(_write_if_allowed, request, answer), body, limits.stream_write_s)
            await answer.write_eof()
    except (ConnectionError, TimeoutError):
        if request.transport is not None:
            request.transport.abort()  # `close` would wait for the client to read what is buffered
    return answer


async def _write_if_allowed(request: web.Request, answer: web.StreamResponse, piece: memoryview) -> None:
    """:raises ConnectionError: the key of a read has ended; a slow client has many minutes for a large answer."""
    if request.method == hdrs.METH_GET and not authority_of(request).still():
        raise ConnectionAbortedError
    await answer.write(piece)


async def write_pieces(write: Callable[[memoryview], Awaitable[None]], data: bytes, within_s: float) -> None:
    """Write `data` in pieces, so that the time for each does not depend on the size of all.

    :raises TimeoutError: the client took no piece for `within_s`.
    """
    view = memoryview(data)
    for at in range(0, len(view), PIECE_BYTES):
        async with asyncio.timeout(within_s):
            await write(view[at : at + PIECE_BYTES])
