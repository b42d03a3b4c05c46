"""A listener of webhooks, and processes that deliver to it, over a real broker."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import SecretStr

from backstop.dev.broker import Owned
from backstop.outgoing.secrets import SecretKeys
from backstop.runtime.kafka.publisher import KafkaPublisher
from backstop.runtime.kafka.topics import create_topics
from backstop.runtime.settings import RuntimeSettings
from schemas.base import Message
from schemas.codec import decode
from schemas.dead_letters import DEAD_LETTER
from schemas.deliveries import DELIVERY_RECORD, ResendAsked, ResendDone
from schemas.results import JobResult, Timings
from schemas.webhook_endpoints import ENDPOINT_FACT, EndpointSaved, SecretRef
from tests.support.children import BACKSTOP, child
from tests.support.reading import records_on
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]


KEY = "outgoing-" + "k" * 32


KEYS = SecretKeys((SecretStr(KEY),))


REF = SecretRef(key_id=KEYS.current_id, number=1)


PARTITIONS = 2


WITHIN_S = 30.0


Reply = Callable[[int], int | Awaitable[int]]
"""Number of the request for one event, from 1 → status."""


@dataclass
class Webhook:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def response_id(self) -> str:
        return str(json.loads(self.body)["data"]["id"])

    @property
    def webhook_id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Listener:
    """All endpoints of a test: each path answers as `replies` says, with 200 where it says nothing."""

    url: str = ""
    webhooks: list[Webhook] = field(default_factory=list)
    replies: dict[str, Reply] = field(default_factory=dict)

    async def take(self, request: web.Request) -> web.Response:
        webhook = Webhook(
            request.path, {name.lower(): value for name, value in request.headers.items()}, await request.read()
        )
        self.webhooks.append(webhook)
        reply = self.replies.get(request.path, lambda _number: 200)
        status = reply(len(self.of(webhook.response_id, request.path)))
        return web.Response(status=status if isinstance(status, int) else await status)

    def of(self, response_id: str, path: str | None = None) -> list[Webhook]:
        return [
            webhook for webhook in self.webhooks if webhook.response_id == response_id and path in (None, webhook.path)
        ]


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    listener, served = Listener(), web.Application()
    served.router.add_post("/{name}", listener.take)
    runner = web.AppRunner(served, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    listener.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield listener
    finally:
        await runner.cleanup()


class Rig:
    """Topics of its own, what is written there, and processes that read it."""

    def __init__(self, bootstrap: str, prefix: str, folder: Path, listener: Listener) -> None:
        self.settings = RuntimeSettings(kafka_bootstrap_servers=bootstrap, topic_prefix=prefix, partitions=PARTITIONS)
        self.listener = listener
        self.log = folder / f"{prefix}log"
        self._folder = folder
        self._publisher = KafkaPublisher(self.settings, "test")
        self._endpoints = 0

    async def start(self) -> None:
        await create_topics(self.settings)
        await self._publisher.start()

    async def stop(self) -> None:
        await self._publisher.stop()

    @asynccontextmanager
    async def outgoing(self, failpoints: str = "", **settings: str) -> AsyncIterator[subprocess.Popen[bytes]]:
        """`backstop outgoing`; killed at the end, if it still lives."""
        environment = {
            "PATH": os.environ["PATH"],
            "KAFKA_BOOTSTRAP_SERVERS": self.settings.kafka_bootstrap_servers,
            "BACKSTOP_TOPIC_PREFIX": self.settings.topic_prefix,
            "BACKSTOP_PARTITIONS": str(PARTITIONS),
            "BACKSTOP_DATA_DIR": str(self._folder),
            "BACKSTOP_OUTGOING_KEYS": KEY,
            "BACKSTOP_OUTGOING_LOOPBACK": "true",
            "BACKSTOP_OUTGOING_RETRY_WAITS_S": "0.2,0.2",
            "BACKSTOP_OUTGOING_TIMEOUT_MS": "3000",
            "BACKSTOP_OUTGOING_SESSION_TIMEOUT_MS": "6000",
            "BACKSTOP_LOG_FORMAT": "json",
            "BACKSTOP_FAILPOINTS": failpoints,
            **settings,
        }
        with child([*BACKSTOP, "outgoing"], environment, self.log) as process:
            yield process

    async def endpoint(self, path: str, tenant: str = "acme", **changed: Any) -> str:
        self._endpoints += 1
        endpoint_id, at_ms = f"we_{self._endpoints:032x}", int(time.time() * 1000) - 1_000
        await self.publish(
            EndpointSaved(
                id=f"{endpoint_id}/1", at_ms=at_ms, endpoint_id=endpoint_id, tenant=tenant, created_at_ms=at_ms,
                secrets=(REF,), **{"url": f"{self.listener.url}{path}", **changed},
            )
        )  # fmt: skip
        return endpoint_id

    async def publish(self, *messages: Message) -> None:
        await self._publisher.publish(messages)

    async def on(self, topic: str) -> list[Any]:
        """All records of a topic, decoded, each partition in order."""
        adapter: Any = {"deliveries": DELIVERY_RECORD, "dead-letters": DEAD_LETTER, "webhook-endpoints": ENDPOINT_FACT}[
            topic
        ]
        name = f"{self.settings.topic_prefix}{topic}"
        records = await records_on(self.settings.kafka_bootstrap_servers, name)
        return [decode(adapter, record.value) for record in records]

    async def until(self, topic: str, kind: type[Message], count: int = 1) -> list[Any]:
        async def enough() -> list[Any]:
            found = [one for one in await self.on(topic) if isinstance(one, kind)]
            return found if len(found) >= count else []

        return await eventually(enough, WITHIN_S, f"{count} {kind.__name__} on {topic}", poll_s=0.1)


@asynccontextmanager
async def rig(broker: Owned, prefix: str, folder: Path) -> AsyncIterator[Rig]:
    async with listening() as listener:
        made = Rig(broker.bootstrap, prefix, folder, listener)
        await made.start()
        try:
            yield made
        finally:
            await made.stop()


def result(name: str, tenant: str = "acme", at_ms: int | None = None) -> JobResult:
    at_ms = at_ms or int(time.time() * 1000)
    job_id = name if tenant == "default" else f"{tenant}:{name}"
    timings = Timings(submitted_at_ms=at_ms - 1_000, finished_at_ms=at_ms)
    return JobResult(
        id=f"{job_id}/result", at_ms=at_ms, job_id=job_id, tenant=tenant, outcome="completed", timings=timings
    )


async def came(listener: Listener, response_id: str, count: int = 1) -> list[Webhook]:
    return await eventually(
        lambda: found if len(found := listener.of(response_id)) >= count else [], WITHIN_S, f"{count} × {response_id}"
    )


def run(story: Awaitable[None]) -> None:
    async def main() -> None:
        await story

    asyncio.run(main())


def attempts(facts: Sequence[Any], delivery_id: str) -> list[tuple[str, int]]:
    of = [fact for fact in facts if fact.key == delivery_id and not isinstance(fact, ResendAsked | ResendDone)]
    return [(fact.type, fact.attempt) for fact in of if hasattr(fact, "attempt")]
