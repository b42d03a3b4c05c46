"""Connections and memory that one tenant takes leave room for other tenants."""

import asyncio
from pathlib import Path

import pytest

from receiver.limits import Limits
from tests.support.waiting import eventually
from tests.unit.receiver.ingress import EVENT, SUBMIT, Ingress, signed, with_ingress
from tests.unit.receiver.test_sdk_keys import Ring, ring

__all__ = ["ring"]

WEBHOOK = b"POST /webhooks/openai HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
OVER = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\n", WEBHOOK, OVER], ids=["nothing", "headers", "half a body", "idle after one"]
)
def test_connections_that_owe_something_do_not_shut_the_webhook_ingress(sent: bytes) -> None:
    async def story(ingress: Ingress) -> None:
        held = [await asyncio.open_connection("127.0.0.1", ingress.port) for _ in range(64)]
        for _, writer in held:
            writer.write(sent)
        for number in range(20):
            assert (await ingress.webhook(headers=signed(EVENT, webhook_id=f"wh_{number}"))).status == 200
        assert (await ingress.metric('backstop_http_connections_refused_total{reason="evicted"}') or 0) >= 1
        ended = await asyncio.wait_for(held[0][0].read(), 10)
        assert b" 200 " not in ended.replace(b"HTTP/1.1 200 OK", b"", 1), "the longest silent made room"
        for _, writer in held:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in held), return_exceptions=True)

    with_ingress(story, limits=Limits(connections_max=64, headers_s=60, webhook_body_s=60))


def test_slow_bodies_of_one_key_do_not_block_anothers(tmp_path: Path, ring: Ring) -> None:
    greedy, honest = ring.add("greedy")["Authorization"], ring.add("honest")
    head = (
        "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n"
        f"Authorization: {greedy}\r\n\r\n"
    )

    async def story(ingress: Ingress) -> None:
        held = [await asyncio.open_connection("127.0.0.1", ingress.port) for _ in range(24)]
        for _, writer in held:
            writer.write(head.encode() + b" " * 50_000)
        heard = await asyncio.gather(
            *(asyncio.wait_for(reader.readline(), 0.5) for reader, _ in held), return_exceptions=True
        )
        refused = sum(isinstance(line, bytes) and b" 503 " in line for line in heard)
        assert 0 < refused < 24, "it gets what it leaves free, and hears 503 beyond"
        for _ in range(5):
            assert (await ingress.call("POST", "/v1/jobs", json=SUBMIT, headers=honest))[0] == 202
        for _, writer in held:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in held), return_exceptions=True)

    with_ingress(story, keys_file=ring.path, limits=Limits(submit_bytes_max=128 << 10, bodies_memory_bytes_max=1 << 20))


def test_one_tenants_open_requests_leave_places_for_others_and_for_webhooks(ring: Ring) -> None:
    greedy, honest = ring.add("greedy"), ring.add("honest")

    async def story(ingress: Ingress) -> None:
        ingress.publisher.hold()
        asking = [
            asyncio.create_task(ingress.call("POST", "/v1/jobs", json={**SUBMIT, "job_id": f"j{n}"}, headers=greedy))
            for n in range(30)
        ]
        await eventually(lambda: sum(one.done() for one in asking) >= 5, what="some to be refused")
        other = asyncio.create_task(ingress.call("POST", "/v1/jobs", json=SUBMIT, headers=honest))
        webhook = asyncio.create_task(ingress.webhook())
        await eventually(
            lambda: {one.__class__.__name__ for one in ingress.publisher.landed} == {"JobSubmitted", "WebhookReceived"}
        )
        ingress.publisher.release()
        assert (await other)[0] == 202
        assert (await webhook).status == 200
        statuses = sorted([(await one)[0] for one in asking])
        assert set(statuses) == {202, 503}

    with_ingress(story, keys_file=ring.path, limits=Limits(connections_max=32))
