"""Sends an answer, complete or sabotaged. The only code that touches a connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import replace
from typing import Final

from aiohttp import web

from backstop.simulator.answers import HTML, HttpAnswer, failure
from backstop.simulator.config import Profile

_LINGER_ZERO: Final = struct.pack("ii", 1, 0)  # close() then sends RST instead of FIN
_POLL_AROUND_S: Final = 0.25
_FIXED: Final = {
    "html_200": HttpAnswer(200, b"<html><body>It works!</body></html>", HTML),
    "empty_object": HttpAnswer(200, b"{}"),
    "null": HttpAnswer(200, b"null"),
    "list": HttpAnswer(200, b"[1]"),
    "no_content": HttpAnswer(204, b""),
    "empty_stream": HttpAnswer(200, b"", "text/event-stream; charset=utf-8"),
}
STATUSES: Final = frozenset({"408", "409", "500", "502", "503", "504"})
# The client is left without an HTTP status.
SILENT: Final = frozenset({"close", "reset", "stall", "not_http"})


def spoil(answer: HttpAnswer, kind: str, slow_real_s: float) -> HttpAnswer:
    """The answer to send in place of `answer` under the fault `kind` of the catalogue."""
    if kind == "slow":
        return replace(answer, wait_real_s=slow_real_s)
    if kind == "202":
        return replace(answer, status=202)
    if kind in STATUSES:
        return failure(int(kind))
    if kind == "broken_json":
        return replace(answer, status=200, body=answer.body[: max(len(answer.body) // 2, 1)])
    fixed = _FIXED.get(kind)
    return replace(answer, sabotage=kind) if fixed is None else fixed


class Wire:
    """Sends answers. `closing` releases held answers, so that a stop is quick."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.closing = asyncio.Event()

    async def send(self, request: web.Request, answer: HttpAnswer) -> web.StreamResponse:
        """Send `answer`, or carry out its sabotage on the connection."""
        if answer.wait_real_s:
            await self.hold(request, answer.wait_real_s)
        match answer.sabotage:
            case None:
                return _whole(answer)
            case "close":
                _close(request)
            case "reset":
                _reset(request)
            case "stall":
                await self.hold(request, self.profile.stall_real_s)
                _close(request)
            case "not_http":
                _garbage(request)
            case "cut":
                return await self._cut(request, answer)
            case "drip":
                return await self._drip(request, answer)
            case unknown:
                raise AssertionError(f"no such sabotage: {unknown}")
        return web.Response(status=500)  # never sent: the connection is closed

    async def hold(self, request: web.Request, real_s: float) -> None:
        """Wait until the time is over, the client leaves, or the server stops."""
        deadline_s = asyncio.get_running_loop().time() + real_s
        while request.transport is not None and not request.transport.is_closing() and not self.closing.is_set():
            left_s = deadline_s - asyncio.get_running_loop().time()
            if left_s <= 0:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.closing.wait(), min(left_s, _POLL_AROUND_S))

    async def _cut(self, request: web.Request, answer: HttpAnswer) -> web.StreamResponse:
        response = _head(answer)
        await response.prepare(request)
        await response.write(answer.body[: len(answer.body) // 2])
        # Send the first half before the connection is closed: an abort would discard it.
        _close(request)
        return response

    async def _drip(self, request: web.Request, answer: HttpAnswer) -> web.StreamResponse:
        response = _head(answer)
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            for index in range(len(answer.body)):
                await response.write(answer.body[index : index + 1])
                await self.hold(request, self.profile.drip_gap_real_s)
                if self.closing.is_set() or request.transport is None:
                    _close(request)
                    break
        return response


def _whole(answer: HttpAnswer) -> web.Response:
    headers = {"content-type": answer.content_type, **answer.headers}
    return web.Response(status=answer.status, body=answer.body, headers=headers)


def _head(answer: HttpAnswer) -> web.StreamResponse:
    headers = {"content-type": answer.content_type, "content-length": str(len(answer.body)), **answer.headers}
    return web.StreamResponse(status=answer.status, headers=headers)


def _close(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


def _reset(request: web.Request) -> None:
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    transport.abort()


def _garbage(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        request.transport.close()
