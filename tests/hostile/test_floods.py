"""Many connections that ask at one time, once or pipelined: other work of the loop has its turn between them.

Counted and not timed, as the client and the tests' own process take their time as well.
"""

import asyncio
import sys
from typing import Final

import pytest
from aiohttp import web

from receiver.connections import PIECE_BYTES
from receiver.turns import REQUESTS_EACH_PASS
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
