"""The read routes on a real server over a real database, and a client of them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry

from backstop.readmodel.feed import StreamLimits
from backstop.runtime.blobs import FolderBlobs
from receiver.reads.routes import add_routes
from receiver.reads.search import add_search_routes
from receiver.reads.shown import Shown
from tests.unit.backstop.readmodel.conftest import Bench
from tests.unit.backstop.readmodel.projection import Projection
from tests.unit.backstop.readmodel.serving import Client


class Api(Client):
    def __init__(
        self, session: aiohttp.ClientSession, projection: Projection, registry: CollectorRegistry, runner: web.AppRunner
    ) -> None:
        super().__init__(session, projection)
        self.runner = runner
        self.registry = registry

    async def get(self, path: str, status: int = 200, tenant: str = "default") -> dict[str, Any]:
        async with self.session.get(path, headers={"X-Test-Tenant": tenant}) as answer:
            body = await answer.json(content_type=None)
            assert answer.status == status, body
            kind = "application/json" if status == 200 else "application/problem+json"
            assert answer.content_type == kind
            return body

    @asynccontextmanager
    async def follow(self, path: str, last_event_id: str | None = None) -> AsyncIterator["Events"]:
        headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        async with self.session.get(path, headers=headers) as answer:
            yield Events(answer)


class Events:
    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def next(self) -> dict[str, Any]:
        """The next event; fails at the end of the stream."""
        event = await self._next_or_end()
        assert event is not None, "the stream has ended"
        return event

    async def _next_or_end(self) -> dict[str, Any] | None:
        """The next event; None at the end of the stream. Skips heartbeats, which a busy machine adds anywhere."""
        while (event := await self.next_or_sign_of_life()) is not None:
            if event.keys() != {"comment"}:
                return event
        return None

    async def next_or_sign_of_life(self) -> dict[str, Any] | None:
        event: dict[str, Any] = {}
        async with asyncio.timeout(10):
            while line := await self.answer.content.readline():
                text = line.decode().rstrip("\n")
                if not text:
                    return event
                name, _, value = text.partition(": ")
                event[name or "comment"] = json.loads(value) if name == "data" else value
        return None

    async def rest(self) -> list[dict[str, Any]]:
        """All events to the end of the stream, without the retry line."""
        found = []
        while (event := await self._next_or_end()) is not None:
            if "event" in event:
                found.append(event)
        return found


LIMITS = StreamLimits(heartbeat_s=0.3, appear_s=0.5)


@asynccontextmanager
async def api(bench: Bench, folder: Path) -> AsyncIterator[Api]:
    """The reads and a projection, with separate databases as in two processes."""
    registry = CollectorRegistry()
    projection = await Projection(bench.another()).take_over()
    reader = bench.another()
    app = web.Application()
    add_routes(
        app,
        reader,
        FolderBlobs(folder),
        lambda request: request.headers.get("X-Test-Tenant", "default"),
        registry,
        LIMITS,
    )
    add_search_routes(
        app,
        reader,
        FolderBlobs(folder),
        lambda request: request.headers.get("X-Test-Tenant", "default"),
        Shown(lambda: 3_000),
    )
    runner = web.AppRunner(app, shutdown_timeout=5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield Api(session, projection, registry, runner)
    finally:
        await runner.cleanup()
