"""Many connections that ask at one time, once or pipelined: other work of the loop has its turn between them.

Counted and not timed, as the client and the tests' own process take their time as well.
"""

import asyncio
import sys
from typing import Final

import pytest
from aiohttp import web

from receiver.turns import REQUESTS_EACH_PASS
from tests.unit.receiver.ingress import Ingress, with_ingress

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
