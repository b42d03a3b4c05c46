"""The server: `build_app(config)`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from aiohttp import web

from backstop.simulator.answers import error
from backstop.simulator.calls import Handler, Op, serve
from backstop.simulator.config import SimulatorConfig
from backstop.simulator.controls import add_controls
from backstop.simulator.core import Simulator
from backstop.simulator.creating import create
from backstop.simulator.streaming import stream
from backstop.simulator.v1 import cancel, delete, items, poll

REQUEST_BYTES_MAX: Final = 32 << 20
SIMULATOR: Final = web.AppKey("simulator", Simulator)


def build_app(config: SimulatorConfig) -> web.Application:
    """The aiohttp application of one simulator. It starts and stops with its runner."""
    simulator = Simulator(config)
    app = web.Application(client_max_size=REQUEST_BYTES_MAX)
    app[SIMULATOR] = simulator
    # Ids are opaque, and aiohttp's default pattern allows no braces.
    one = "/v1/responses/{response_id:[^/]+}"
    _add(app, simulator, "POST", "/v1/responses", "create", create)
    _add(app, simulator, "GET", one, "poll", poll)
    _add(app, simulator, "POST", f"{one}/cancel", "cancel", cancel)
    _add(app, simulator, "DELETE", one, "delete", delete)
    _add(app, simulator, "GET", f"{one}/input_items", "items", items)
    app.router.add_route("*", "/v1{rest:.*}", _no_such_url)
    add_controls(app, simulator)

    async def run(_: web.Application) -> AsyncIterator[None]:
        simulator.start()
        yield
        await simulator.close()

    async def let_go(_: web.Application) -> None:
        simulator.begin_close()

    app.cleanup_ctx.append(run)
    app.on_shutdown.append(let_go)
    return app


async def _no_such_url(request: web.Request) -> web.StreamResponse:
    answer = error(404, f"Invalid URL ({request.method} {request.path})")
    return web.Response(status=answer.status, body=answer.body, content_type=answer.content_type)


def _add(app: web.Application, simulator: Simulator, method: str, path: str, op: Op, handle: Handler) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await serve(simulator, op, request, handle, stream)

    serving: Callable[[web.Request], Awaitable[web.StreamResponse]] = answer
    # No HEAD for each GET: OpenAI has none.
    app.router.add_route(method, path, serving)
