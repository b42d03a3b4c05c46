"""Clients that ask and do not read: each is cut off in time, makes room for others, and costs no neighbour anything."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from receiver.limits import Limits
from tests.support.waiting import eventually
from tests.unit.receiver.ingress import EVENT, Ingress, signed, with_ingress

UNKNOWN = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSING = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
FORMS = {
    "small answers, pipelined": UNKNOWN * 1_500,
    "large answers, pipelined": LARGE * 40,
    "one large answer": LARGE,
    "one large answer, the last": CLOSING,
}
MAX = 32


@asynccontextmanager
async def not_reading(ingress: Ingress, sent: bytes, count: int) -> AsyncIterator[list[socket.socket]]:
    """Clients with the smallest buffers there are, which send `sent` and read nothing."""
    loop, held = asyncio.get_running_loop(), []
    try:
        for _ in range(count):
            sock = socket.socket()
            held.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", ingress.port))
            sock.send(sent)
        yield held
    finally:
        for sock in held:
            sock.close()


async def webhooks_work(ingress: Ingress) -> None:
    for number in range(10):
        assert (await ingress.webhook(headers=signed(EVENT, webhook_id=f"wh_{number}"))).status == 200


@pytest.mark.parametrize("sent", FORMS.values(), ids=FORMS)
def test_clients_that_do_not_read_make_room_for_others(sent: bytes) -> None:
    async def story(ingress: Ingress) -> None:
        async with not_reading(ingress, sent, 2 * MAX):
            await webhooks_work(ingress)

    with_ingress(story, limits=Limits(connections_max=MAX))


@pytest.mark.parametrize("half_closed", [False, True])
@pytest.mark.parametrize("sent", FORMS.values(), ids=FORMS)
def test_a_client_that_does_not_read_is_cut_off_in_time(sent: bytes, *, half_closed: bool) -> None:
    async def story(ingress: Ingress) -> None:
        async with not_reading(ingress, sent, 3) as held:
            if half_closed:
                for sock in held:
                    sock.shutdown(socket.SHUT_WR)

            async def all_gone() -> bool:
                return (await ingress.metric("backstop_http_connections")) == 1

            await eventually(all_gone, 20, "the ends of the connections")

    with_ingress(story, limits=Limits(connections_max=MAX, stream_write_s=0.3, headers_s=0.5, idle_s=0.5))
