"""Clients that are slow, many, or gone: limits before and around requests."""

import asyncio
import statistics
import time

import aiohttp
import pytest
from aiohttp import web

from receiver.limits import Limits
from tests.support.waiting import eventually
from tests.unit.receiver.ingress import EVENT, Ingress, raw_exchange, signed, with_ingress

REQUEST = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


async def closed_after_s(port: int, data: bytes, timeout_s: float = 10.0) -> float:
    began_s = time.monotonic()
    await raw_exchange(port, data, timeout_s)
    return time.monotonic() - began_s


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n\r\n", b"POST /webhooks/openai HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_headers_that_do_not_end_in_time_are_a_408_and_a_closed_connection(sent: bytes) -> None:
    async def story(ingress: Ingress) -> None:
        answer = await raw_exchange(ingress.port, sent, 5)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert await ingress.metric('backstop_http_connections_refused_total{reason="slow_headers"}') == 1.0

    with_ingress(story, limits=Limits(headers_s=0.2, idle_s=30))


def test_dripping_headers_do_not_move_the_deadline() -> None:
    async def story(ingress: Ingress) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", ingress.port)
        writer.write(b"GET / HTTP/1.1\r\n")

        async def drip() -> None:
            while True:
                writer.write(b"X: y\r\n")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        # Not to the end: a drip into the closed connection resets it.
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 408 ")
        dripping.cancel()
        writer.close()
        await asyncio.gather(dripping, writer.wait_closed(), return_exceptions=True)

    with_ingress(story, limits=Limits(headers_s=0.3, idle_s=30))


def test_headers_without_an_end_are_a_431() -> None:
    async def story(ingress: Ingress) -> None:
        answer = await raw_exchange(ingress.port, b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000)
        assert answer.startswith(b"HTTP/1.1 431 ")

    with_ingress(story)


def test_headers_in_pieces_are_one_request() -> None:
    async def story(ingress: Ingress) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", ingress.port)
        for piece in (b"\r\n", b"GET /livez HT", b"TP/1.1\r\nHost: x\r\n", b"\r", b"\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        assert b" 200 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        await writer.wait_closed()

    with_ingress(story)


def test_a_connection_that_idles_after_its_request_is_closed() -> None:
    async def story(ingress: Ingress) -> None:
        assert 0.2 <= await closed_after_s(ingress.port, REQUEST) < 5
        next_headers_begun = REQUEST + b"GET /livez HTTP/1.1\r\nX: "
        assert 0.2 <= await closed_after_s(ingress.port, next_headers_begun) < 5

    with_ingress(story, limits=Limits(headers_s=0.2, idle_s=0.2))


def test_while_all_connections_wait_for_the_receiver_a_new_one_gets_503_and_they_continue() -> None:
    async def story(ingress: Ingress) -> None:
        ingress.publisher.hold()
        asking = [asyncio.create_task(ingress.webhook(headers=signed(EVENT, webhook_id=f"wh_{n}"))) for n in range(3)]
        await eventually(lambda: len(ingress.publisher.landed) == 3, 5, "the records to land")
        assert (await raw_exchange(ingress.port, REQUEST)).startswith(b"HTTP/1.1 503 ")
        ingress.publisher.release()
        assert [(await one).status for one in asking] == [200] * 3
        assert (await ingress.call("GET", "/livez"))[0] == 200

    with_ingress(story, limits=Limits(connections_max=3))


def test_500_slow_connections_do_not_slow_an_honest_request() -> None:
    async def p99_s(ingress: Ingress) -> float:
        times_s = []
        for number in range(200):
            began_s = time.perf_counter()
            response = await ingress.webhook(headers=signed(EVENT, webhook_id=f"wh_{number}"))
            times_s.append(time.perf_counter() - began_s)
            assert response.status == 200
        return statistics.quantiles(times_s, n=100)[98]

    async def story(ingress: Ingress) -> None:
        quiet_s = await p99_s(ingress)
        slow = [await asyncio.open_connection("127.0.0.1", ingress.port) for _ in range(500)]
        for number, (_, writer) in enumerate(slow):
            writer.write(b"POST /webhooks/openai HTTP/1.1\r\nHost: x\r\n")
            if number % 2:
                writer.write(b"Content-Length: 1000\r\n\r\n{")
        beset_s = await p99_s(ingress)
        # Twice the quiet time is the goal; a floor keeps a busy machine's noise from failing what takes a millisecond.
        assert beset_s < max(2 * quiet_s, 0.05)
        answers = await asyncio.gather(*(asyncio.wait_for(reader.readline(), 10) for reader, _ in slow))
        assert all(b" 408 " in answer for answer in answers)
        for _, writer in slow:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in slow), return_exceptions=True)

    with_ingress(story, limits=Limits(headers_s=3, webhook_body_s=3))


def test_a_request_that_has_begun_is_finished_when_the_process_stops() -> None:
    async def story(ingress: Ingress) -> None:
        ingress.publisher.hold()
        asking = asyncio.create_task(ingress.webhook())
        await eventually(lambda: ingress.publisher.landed, 5, "the record to land")
        ingress.stop.set()

        async def refused() -> bool:
            try:
                async with aiohttp.ClientSession() as session, session.get(f"{ingress.url}/livez"):
                    return False
            except aiohttp.ClientConnectionError:
                return True

        await eventually(refused, 5, "new connections to be refused")
        ingress.publisher.release()
        assert (await asking).status == 200

    with_ingress(story)


def test_an_idle_connection_does_not_delay_the_stop() -> None:
    async def story(ingress: Ingress) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", ingress.port) for _ in range(2)]
        idle[0][1].write(REQUEST)
        await idle[0][0].readline()
        ingress.stop.set()
        began_s = time.monotonic()
        await asyncio.gather(*(asyncio.wait_for(reader.read(), 5) for reader, _ in idle))
        assert time.monotonic() - began_s < 2
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()

    with_ingress(story)


def test_a_request_that_never_ends_delays_the_stop_no_longer_than_allowed() -> None:
    begun = asyncio.Event()

    def add_routes(app: web.Application) -> None:
        async def never(_request: web.Request) -> web.Response:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        app.router.add_get("/never", never)

    async def story(ingress: Ingress) -> None:
        asking = asyncio.create_task(ingress.call("GET", "/never"))
        await asyncio.wait_for(begun.wait(), 5)
        ingress.stop.set()
        began_s = time.monotonic()
        with pytest.raises(aiohttp.ClientError):
            await asking
        assert time.monotonic() - began_s < 5

    with_ingress(story, limits=Limits(stop_s=1, publish_s=0.3), add_routes=add_routes)
