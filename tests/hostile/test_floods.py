"""Many connections that ask at one time, once or pipelined: other work of the loop has its turn between them.

Counted and not timed, as the client and the tests' own process take their time as well.
"""

import asyncio
import sys
from typing import Final

import pytest
from aiohttp import web

from receiver.connections import DENSE_LINES_MIN, PIECE_BYTES, Gate, ProblemRequestHandler
from receiver.limits import Limits
from receiver.turns import PIECES_EACH_PASS, REQUESTS_EACH_PASS, LoopTurns
from tests.support.waiting import eventually
from tests.unit.receiver.ingress import Ingress, raw_exchange, with_ingress

CONNECTIONS: Final = 600
FLOOD: Final = """
import selectors, socket, sys
port, count, sent = int(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3])
selector = selectors.DefaultSelector()
for _ in range(count):
    client = socket.create_connection(("127.0.0.1", port))
    client.setblocking(False)
    selector.register(client, selectors.EVENT_READ)
for key in list(selector.get_map().values()):  # when all are there: at one time
    key.fileobj.send(sent)
while selector.get_map():
    for key, _ in selector.select(10):
        try:
            more = key.fileobj.recv(65536)
        except ConnectionError:
            more = b""
        if not more:
            selector.unregister(key.fileobj)
            key.fileobj.close()
"""
COUNTED: Final = b"GET /counted HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST: Final = b"GET /counted HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
FORMS: Final = {"one request each": LAST, "pipelined": COUNTED * 9 + LAST}


@pytest.mark.parametrize("sent", FORMS.values(), ids=FORMS)
def test_a_pass_of_the_loop_begins_few_of_the_requests_of_a_flood(sent: bytes) -> None:
    begun, each_pass = 0, []

    async def counted(_request: web.Request) -> web.Response:
        nonlocal begun
        begun += 1
        return web.Response()

    async def story(ingress: Ingress) -> None:
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FLOOD, str(ingress.port), str(CONNECTIONS), sent.hex()
        )
        ended = asyncio.create_task(client.wait())
        while not ended.done():
            before = begun
            await asyncio.sleep(0)
            each_pass.append(begun - before)
        assert await ended == 0

    with_ingress(story, add_routes=lambda app: app.router.add_get("/counted", counted) and None)
    assert begun == CONNECTIONS * sent.count(b"GET")
    assert max(each_pass) <= 2 * REQUESTS_EACH_PASS, "what is counted between two looks is of two passes at most"


def test_data_in_short_lines_is_parsed_in_pieces_and_comes_as_it_was_sent() -> None:
    """A body in chunks of a few bytes costs the parser by its chunks, also without a key."""
    fed, got = [], bytearray()
    rows = b"".join(b"%d\n" % number for number in range(40_000))
    chunks = b"".join(b"2\r\n%b\r\n" % rows[at : at + 2] for at in range(0, len(rows), 2))
    head = b"POST /counted HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def answered(_request: web.Request) -> web.Response:
        return web.Response()

    async def read(request: web.Request) -> web.Response:
        async for chunk in request.content.iter_any():
            got.extend(chunk)
            fed.append(len(chunk))
        return web.Response()

    async def story(ingress: Ingress) -> None:
        answer = await raw_exchange(ingress.port, head + chunks + b"0\r\n\r\n" + LAST, 60)
        assert answer.count(b"HTTP/1.1 200") == 2, "and the next request of the connection is answered"
        assert bytes(got) == rows

    def add(app: web.Application) -> None:
        app.router.add_post("/counted", read)
        app.router.add_get("/counted", answered)

    with_ingress(story, add_routes=add)
    assert max(fed) <= PIECE_BYTES


CHUNK: Final = b"1\r\nx\r\n"
POST: Final = b"POST /held HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


class Held:
    """A route that answers nothing, and the protocols of its requests."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.clients: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def add(self, app: web.Application) -> None:
        app.router.add_post("/held", self._hold)

    async def _hold(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        await asyncio.Event().wait()
        return web.Response()

    async def open(self, ingress: Ingress, address: str = "127.0.0.1") -> asyncio.StreamWriter:
        """A connection whose request has begun."""
        before = len(self.requests)
        client = await asyncio.open_connection("127.0.0.1", ingress.port, local_addr=(address, 0))
        self.clients.append(client)
        client[1].write(POST)
        await eventually(lambda: len(self.requests) > before)
        return client[1]

    def close(self) -> None:
        for _, writer in self.clients:
            writer.close()

    @property
    def protocol(self) -> ProblemRequestHandler:
        """Of the last request."""
        found = self.requests[-1].protocol
        assert isinstance(found, ProblemRequestHandler)
        return found

    @property
    def parsed_bytes(self) -> int:
        return sum(request.content.total_bytes for request in self.requests)


class NeverNow(LoopTurns):
    def now(self) -> bool:
        super().now()
        return False


class Stopped(NeverNow):
    def later(self, owner: str, begin: object) -> None:
        """Nothing begins."""


@pytest.mark.parametrize("chunks", [DENSE_LINES_MIN // 2, pytest.param(160, marks=pytest.mark.long)])
def test_short_reads_of_short_lines_take_turns_too(chunks: int) -> None:
    """One of them costs little. But a pass of the loop would have one of each connection, also without a key."""
    held, clients, each_pass = Held(), 100, []

    async def story(ingress: Ingress) -> None:
        writers = [await held.open(ingress) for _ in range(clients)]
        for writer in writers:
            writer.write(CHUNK * chunks)
        while held.parsed_bytes < clients * chunks:
            before = held.parsed_bytes
            await asyncio.sleep(0)
            each_pass.append(held.parsed_bytes - before)
        held.close()

    with_ingress(story, add_routes=held.add)
    assert max(each_pass) <= 2 * PIECES_EACH_PASS * chunks


def test_what_waits_to_be_parsed_is_bounded_and_the_address_with_most_of_it_pays() -> None:
    held, waiting_bytes = Held(), [3_000, 3_000, 1_998]

    async def story(ingress: Ingress) -> None:
        writers = [await held.open(ingress, address) for address in ("127.0.0.2", "127.0.0.2", "127.0.0.1")]
        gate = held.protocol.gate
        gate.pieces = Stopped(each_pass=1)
        for writer, size_bytes in zip(writers, waiting_bytes, strict=True):
            writer.write(CHUNK * (size_bytes // len(CHUNK)))
        await eventually(lambda: gate.rest_bytes == sum(waiting_bytes))
        assert len(gate.handlers) == 3, "at the limit all stay"
        more = await held.open(ingress)
        more.write(CHUNK * 100)
        await eventually(lambda: gate.rest_bytes == sum(waiting_bytes) - 3_000 + 600)
        await eventually(lambda: sorted(len(one.rest) for one in gate.handlers) == [600, 1_998, 3_000])
        assert await ingress.metric('backstop_http_connections_refused_total{reason="unparsed"}') == 1.0
        held.close()

    with_ingress(story, add_routes=held.add, limits=Limits(rest_bytes_max=sum(waiting_bytes)))


def test_a_connection_that_goes_takes_what_waited_with_it() -> None:
    held = Held()

    async def story(ingress: Ingress) -> None:
        writer = await held.open(ingress)
        gate, protocol = held.protocol.gate, held.protocol
        gate.pieces = Stopped(each_pass=1)
        writer.write(CHUNK * 100)
        await eventually(lambda: gate.rest_bytes == 600)
        protocol.wire.abort()
        await eventually(lambda: protocol not in gate.handlers)
        assert gate.rest_bytes == 0
        held.close()

    with_ingress(story, add_routes=held.add)


class Broken:
    def feed_data(self, _data: bytes) -> None:
        raise RuntimeError("a defect of the parser")


def test_a_piece_that_fails_ends_its_connection() -> None:
    held = Held()

    async def story(ingress: Ingress) -> None:
        writer = await held.open(ingress)
        held.protocol.gate.pieces = NeverNow(each_pass=1)
        held.protocol._parser = Broken()  # type: ignore[assignment]
        writer.write(CHUNK * 100)
        assert await asyncio.wait_for(held.clients[0][0].read(), 5) == b"", "closed, without an answer"
        held.close()

    with_ingress(story, add_routes=held.add)


class Failing(Gate):
    def hand_over(self, transport: asyncio.Transport, received: bytes, address: str) -> None:
        raise RuntimeError("a defect at the start of a connection")


def test_a_connection_that_fails_to_begin_is_ended() -> None:
    async def answered(_request: web.BaseRequest) -> web.Response:
        return web.Response()

    async def story() -> None:
        gate = Failing(web.Server(answered), Limits())
        gate.arrivals = NeverNow(each_pass=1)
        server = await asyncio.get_running_loop().create_server(gate, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        for _ in range(2):
            assert await raw_exchange(port, LAST, 5) == b"", "closed, without an answer"
        server.close()

    asyncio.run(story())
