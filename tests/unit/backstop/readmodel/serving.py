"""What tests of read routes share: a real server, a client, and the projection that feeds the database."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import aiohttp
from aiohttp import web

from receiver.reads.overview import Rights
from tests.unit.backstop.readmodel.conftest import Bench
from tests.unit.backstop.readmodel.logs import Log
from tests.unit.backstop.readmodel.projection import Projection

RIGHTS = Rights(lambda r: r.headers["X-Test-Tenant"], lambda r: r.headers["X-Test-Scopes"].split(","))
"""Each request says who sends it."""


class Client:
    """A subclass asks the routes of its test."""

    def __init__(self, session: aiohttp.ClientSession, projection: Projection) -> None:
        self.session = session
        self.projection = projection
        self.log = Log()

    async def take(self, *facts: Any) -> None:
        await self.projection.take(self.log.put(*facts))


ClientT = TypeVar("ClientT", bound=Client)


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[aiohttp.ClientSession]:
    """The application on a port of its own, and a session with it."""
    runner = web.AppRunner(app, shutdown_timeout=5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
            yield session
    finally:
        await runner.cleanup()


def running(
    run: Any, api: Callable[[Bench], AbstractAsyncContextManager[ClientT]]
) -> Callable[[Callable[[ClientT], Coroutine[Any, Any, None]]], None]:
    """Run an async test body with the client that `api` makes, on each kind of database (`run`)."""

    def runner(body: Callable[[ClientT], Coroutine[Any, Any, None]]) -> None:
        async def whole(bench: Bench) -> None:
            async with api(bench) as client:
                await body(client)

        run(whole)

    return runner
