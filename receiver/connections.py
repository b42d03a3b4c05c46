"""Limits on connections before their first request: how many are open, and how long their headers may take.

aiohttp limits neither. So each accepted connection is first held by a protocol of this module, which collects the
headers of the first request and then hands the connection over to aiohttp. A connection that sends slowly, or nothing,
is closed here and costs a few hundred bytes. At the limit, room for a new connection is made among those that wait for
their client, to send or to read: of the address with most of them, the ones silent for longest are closed.

aiohttp also waits without end for a client that does not read: before the next answer, and when it closes. Such a
connection is cut off after `CUT_FACTOR` times `stream_write_s`.
"""

import asyncio
from http import HTTPStatus
from ipaddress import IPv6Address
from typing import Any, cast

from aiohttp import web

from backstop.runtime.process.clock import monotonic_s
from backstop.runtime.process.logs import get_logger
from receiver.failures import log_failure
from receiver.limits import Limits
from receiver.metrics import ReceiverMetrics
from receiver.problems import SERVER_FAILED, Problem, to_response
from receiver.turns import ARRIVALS_EACH_PASS, PIECES_EACH_PASS, REQUESTS_EACH_PASS, LoopTurns

END_OF_HEADERS = b"\r\n\r\n"

CUT_FACTOR = 1.25
"""An answer that is being written ends at `stream_write_s` itself, and says so. It must come first."""

PIECE_BYTES = 4_096
"""Of data in short lines, which costs the parser by its lines: chunks of one byte, about 0.5 ms a piece."""

DENSE_LINE_BYTES = 32
"""Lines that are shorter on average make data dense. A body in short lines is only fed in more pieces."""

DENSE_LINES_MIN = 32
"""Fewer lines are parsed at once, about 0.01 ms: the headers of a usual request."""

log = get_logger("receiver.connections")


class ProblemRequestHandler(web.RequestHandler):
    """aiohttp's protocol, but input that it can't parse is answered with a problem document and logged without its
    bytes.
    """

    __slots__ = ("address", "cut", "feeding", "gate", "heard_s", "rest", "wire")

    gate: "Gate"
    address: str
    heard_s: float
    wire: asyncio.Transport
    """aiohttp forgets its own when it closes, though bytes may still wait for the client."""
    cut: asyncio.TimerHandle | None
    feeding: bool
    rest: bytearray
    """Received and not yet parsed: at most what one read brings, as reading is paused meanwhile. `Gate.rest_bytes`
    counts it.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire, self.cut = cast("asyncio.Transport", transport), None
        self.rest, self.feeding = bytearray(), False
        super().connection_made(transport)
        self.gate.handlers.add(self)
        assert self._task_handler is not None
        self._task_handler.add_done_callback(self._cut_later)  # it closes the connection as it ends

    def connection_lost(self, exc: BaseException | None) -> None:
        self.gate.handlers.discard(self)
        self._keep()
        self._drop_rest()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._cut_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.heard_s = monotonic_s()
        if not self.wire.is_closing():
            self._keep()

    def _cut_later(self, _ended: object = None) -> None:
        if self.cut is None and self in self.gate.handlers:
            self.cut = self._loop.call_later(CUT_FACTOR * self.gate.limits.stream_write_s, self.wire.abort)

    def _keep(self) -> None:
        if self.cut is not None:
            self.cut.cancel()
            self.cut = None

    def data_received(self, data: bytes) -> None:
        if data:  # without data aiohttp has its parser go on
            self.heard_s = monotonic_s()
        if not data or not (self.rest or _is_dense(data)):
            super().data_received(data)
            return
        self.rest += data
        self.gate.count_rest(len(data))
        if self.rest:  # else it was closed, for all of them together are too much
            self.wire.pause_reading()
            self._feed_later()

    def resume_reading(self, resume_parser: bool = True) -> None:
        super().resume_reading(resume_parser)
        self._rest_first()

    def _resume_reading_for_buffer(self) -> None:
        super()._resume_reading_for_buffer()
        self._rest_first()

    def _rest_first(self) -> None:
        """Nothing more is read before what was read is parsed."""
        if self.rest and not self.wire.is_closing():
            self.wire.pause_reading()
            self._feed_later()

    def _feed_later(self) -> None:
        if self.feeding:
            return
        self.feeding = True
        if self.gate.pieces.now():
            self._loop.call_soon(self._feed)
        else:
            self.gate.pieces.later(self.address, self._feed)

    def _feed(self) -> None:
        self.feeding = False
        if self not in self.gate.handlers or self.wire.is_closing():
            self._drop_rest()
        elif not (self._reading_paused or self._buffer_paused):  # else aiohttp resumes it
            piece = bytes(self.rest[:PIECE_BYTES])
            del self.rest[:PIECE_BYTES]
            self.gate.count_rest(-len(piece))
            try:
                super().data_received(piece)
            except Exception as error:  # any, as the loop does where it calls `data_received` itself
                log_failure(error)
                self.evict()
            if self.rest:
                self._feed_later()
            elif not (self._reading_paused or self._buffer_paused or self.wire.is_closing()):
                self.wire.resume_reading()

    def _drop_rest(self) -> None:
        self.gate.count_rest(-len(self.rest))
        self.rest.clear()

    @property
    def owes(self) -> bool:
        """Whether the client has to go on: to read, to send a new request, or the rest of the current body."""
        request = self._current_request
        return self.writing_paused or request is None or not request.content.is_eof()

    async def _handle_request(
        self, request: web.BaseRequest, start_time: float | None, request_handler: Any
    ) -> tuple[web.StreamResponse, bool]:
        """What aiohttp calls for each request, also for one that is not HTTP."""

        async def in_turn(request: web.BaseRequest) -> web.StreamResponse:
            await self.gate.requests.take(self.address)
            return cast("web.StreamResponse", await request_handler(request))

        return await super()._handle_request(request, start_time, in_turn)

    def evict(self) -> None:
        self._drop_rest()
        self.force_close()
        self.wire.abort()  # `close` waits for the client to read

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's; unused, as it quotes the client's bytes
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun; the client would read a second one as its body")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log_failure(exc)
            response = to_response(Problem(status, "internal", SERVER_FAILED))
        else:
            log.debug("request_not_http", error_type=type(exc).__name__)
            response = to_response(Problem(status, "bad_http", "This is not a well-formed HTTP request."))
        response.force_close()
        return response


class Gate:
    """The protocol factory for `loop.create_server(gate, ...)`."""

    def __init__(self, server: web.Server, limits: Limits, metrics: ReceiverMetrics | None = None) -> None:
        self._server = server
        self._metrics = metrics
        self.limits = limits
        self.waiting: set[_Waiting] = set()
        self.handlers: set[ProblemRequestHandler] = set()
        self.arrivals = LoopTurns(ARRIVALS_EACH_PASS)
        self.requests = LoopTurns(REQUESTS_EACH_PASS)
        self.pieces = LoopTurns(PIECES_EACH_PASS)
        self.rest_bytes = 0
        if metrics is not None:
            metrics.connections.set_function(lambda: self.open)

    def __call__(self) -> asyncio.Protocol:
        return _Waiting(self)

    @property
    def open(self) -> int:
        return len(self.waiting) + len(self._server.connections)

    @property
    def full(self) -> bool:
        return self.open >= self.limits.connections_max

    def make_room(self) -> bool:
        """Close some connections whose client has to go on; several at once, so that not each new connection repeats
        the search. False: there are none.
        """
        owing: dict[str, list[_Waiting | ProblemRequestHandler]] = {}
        found: list[_Waiting | ProblemRequestHandler] = [*self.waiting]
        found += [handler for handler in self.handlers if handler.owes]
        for one in found:
            owing.setdefault(one.address, []).append(one)
        if not owing:
            return False
        most = max(owing.values(), key=len)
        most.sort(key=lambda one: one.heard_s)
        for one in most[: max(1, min(len(most) // 2, self.limits.connections_max // 32))]:
            self.refused("evicted")
            one.evict()
        return True

    def count_rest(self, more_bytes: int) -> None:
        """Beyond the limit, the address with most that waits to be parsed loses connections, those with most of it
        first; down to 7/8, so that not each read repeats the search.
        """
        self.rest_bytes += more_bytes
        bytes_max = self.limits.rest_bytes_max
        if self.rest_bytes <= bytes_max:
            return
        waiting: dict[str, list[ProblemRequestHandler]] = {}
        for handler in self.handlers:
            if handler.rest:
                waiting.setdefault(handler.address, []).append(handler)
        most = max(waiting.values(), key=lambda ones: sum(len(one.rest) for one in ones))
        most.sort(key=lambda one: len(one.rest))
        while most and self.rest_bytes > bytes_max - bytes_max // 8:
            self.refused("unparsed")
            most.pop().evict()

    def refused(self, reason: str) -> None:
        if self._metrics is not None:
            self._metrics.connections_refused.labels(reason).inc()

    def hand_over(self, transport: asyncio.Transport, received: bytes, address: str) -> None:
        handler = ProblemRequestHandler(
            self._server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=self.limits.idle_s,
            lingering_time=self.limits.lingering_s,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None as "no access log"; its types do not
        )
        handler.gate, handler.address, handler.heard_s = self, address, monotonic_s()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        handler.data_received(received)

    def close(self) -> None:
        """Close the connections that are still waiting for their first headers."""
        for waiting in list(self.waiting):
            waiting.close()


class _Waiting(asyncio.Protocol):
    """A connection until the end of its first headers."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.address = ""
        self.heard_s = monotonic_s()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.address = _network(transport.get_extra_info("peername"))
        if self._gate.full and not self._gate.make_room():
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
        # Empty lines before a request are allowed (RFC 9112, 2.2) and do not end its headers.
        self._received += data if self._received else data.lstrip(b"\r\n")
        if self._received.find(END_OF_HEADERS, search_from) >= 0:
            if self._gate.arrivals.now():
                self._hand_over()
            else:
                self._cancel_timer()
                self._transport.pause_reading()
                self._gate.arrivals.later(self.address, self._go_on)
        elif len(self._received) > self._gate.limits.headers_bytes_max:
            self._refuse("large_headers", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _go_on(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        try:
            transport.resume_reading()
            self._hand_over()
        except Exception as error:  # any, as the loop does where it calls `data_received` itself
            log_failure(error)
            transport.abort()

    def _hand_over(self) -> None:
        transport, self._transport = self._transport, None
        self._forget()
        if transport is not None:
            self._gate.hand_over(transport, bytes(self._received), self.address)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self._transport = None
        self._forget()

    def close(self) -> None:
        self._forget()
        if self._transport is not None:
            self._transport.close()

    def evict(self) -> None:
        self.close()

    def _refuse(self, reason: str, status: HTTPStatus) -> None:
        self._gate.refused(reason)
        if self._transport is not None:
            self._transport.write(
                f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()
            )
        self.close()

    def _forget(self) -> None:
        self._gate.waiting.discard(self)
        self._cancel_timer()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _is_dense(data: bytes) -> bool:
    lines = data.count(b"\n")
    return lines >= DENSE_LINES_MIN and lines * DENSE_LINE_BYTES > len(data)


def _network(peer: Any) -> str:
    """The part of an address that a client can't vary at will: all of an IPv4 one, the first 64 bits of an IPv6 one."""
    if not isinstance(peer, tuple) or not peer:
        return ""
    host = str(peer[0]).partition("%")[0]
    return IPv6Address(host).exploded[:19] if ":" in host else host
