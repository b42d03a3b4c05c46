"""Connections before they are requests: how many, and how long their headers may take.

aiohttp has no limit of its own on either. So each accepted connection is first held by a protocol of ours, which collects
the headers of its first request, and only then is handed over to aiohttp. What sends slowly, or nothing, is closed here and
has cost a few hundred bytes.
"""

import asyncio
from http import HTTPStatus
from typing import cast

from aiohttp import web

from receiver.failures import log_failure
from receiver.limits import Limits
from receiver.metrics import ReceiverMetrics
from receiver.problems import Problem, to_response
from runtime.logs import get_logger

END_OF_HEADERS = b"\r\n\r\n"

log = get_logger("receiver.connections")


class ProblemRequestHandler(web.RequestHandler):
    """aiohttp's protocol, but what it can't parse is answered as a problem, and logged without its bytes."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's; it quotes the client's bytes, so it is left out
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun; a second one would be read as its body")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log_failure(exc)
            response = to_response(Problem(status, "internal", "The server failed; nothing was promised."))
        else:
            log.debug("request_not_http", error_type=type(exc).__name__)
            response = to_response(Problem(status, "bad_http", "This is not a well-formed HTTP request."))
        response.force_close()
        return response


class Gate:
    """Makes the protocol of each connection: `loop.create_server(gate, ...)`."""

    def __init__(self, server: web.Server, limits: Limits, metrics: ReceiverMetrics | None = None) -> None:
        self._server = server
        self._metrics = metrics
        self.limits = limits
        self.waiting: set[_Waiting] = set()

    def __call__(self) -> asyncio.Protocol:
        return _Waiting(self)

    @property
    def full(self) -> bool:
        return len(self.waiting) + len(self._server.connections) >= self.limits.connections_max

    def refused(self, reason: str) -> None:
        if self._metrics is not None:
            self._metrics.connections_refused.labels(reason).inc()

    def hand_over(self, transport: asyncio.Transport, received: bytes) -> None:
        handler = ProblemRequestHandler(
            self._server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=self.limits.idle_s,
            lingering_time=self.limits.lingering_s,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None for "no access log", and does not say so
        )
        transport.set_protocol(handler)
        handler.connection_made(transport)
        handler.data_received(received)

    def close(self) -> None:
        """Close what has not become a request."""
        for waiting in list(self.waiting):
            waiting.close()


class _Waiting(asyncio.Protocol):
    """A connection until the end of its first headers."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._gate.full:
            self._refuse("full", HTTPStatus.SERVICE_UNAVAILABLE)
            return
        self._gate.waiting.add(self)
        self._timer = asyncio.get_running_loop().call_later(
            self._gate.limits.headers_s, self._refuse, "slow_headers", HTTPStatus.REQUEST_TIMEOUT
        )

    def data_received(self, data: bytes) -> None:
        if self not in self._gate.waiting or self._transport is None:
            return
        search_from = max(0, len(self._received) - len(END_OF_HEADERS) + 1)
        # Empty lines before a request are allowed (RFC 9112, 2.2) and are not the end of its headers.
        self._received += data if self._received else data.lstrip(b"\r\n")
        if self._received.find(END_OF_HEADERS, search_from) >= 0:
            transport, self._transport = self._transport, None
            self._forget()
            self._gate.hand_over(transport, bytes(self._received))
        elif len(self._received) > self._gate.limits.headers_bytes_max:
            self._refuse("large_headers", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self._transport = None
        self._forget()

    def close(self) -> None:
        self._forget()
        if self._transport is not None:
            self._transport.close()

    def _refuse(self, reason: str, status: HTTPStatus) -> None:
        self._gate.refused(reason)
        if self._transport is not None:
            self._transport.write(
                f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()
            )
        self.close()

    def _forget(self) -> None:
        self._gate.waiting.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
