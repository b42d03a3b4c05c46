"""The listening socket. It can be closed for a while: connections are then refused, as by a host that is down."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

from aiohttp import web

BACKLOG: Final = 1024


class Ingress:
    """Listens at one address. While closed the address stays bound, so that no other program can listen there."""

    def __init__(self, runner: web.AppRunner, host: str, port: int) -> None:
        self._runner = runner
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self._family: int = info[0][0]
        self._address: Any = info[0][4]
        self._kept: socket.socket | None = None
        self._site: web.SockSite | None = None
        self._wanted_open = True
        self._moving: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port, also if a free one was requested."""
        return int(self._address[1])

    async def open(self) -> None:
        """Listen; OSError if the address is not available."""
        if self._kept is None:
            self._kept = self._bound()
        self._site = web.SockSite(self._runner, self._kept, backlog=BACKLOG)
        self._kept = None
        await self._site.start()

    async def shut(self) -> None:
        """Stop listening. Open connections stay."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
            # The loop closes the socket in its next round.
            await asyncio.sleep(0)
            self._kept = self._bound()

    def want(self, *, is_open: bool) -> None:
        """Open or close the socket soon; the last call counts."""
        self._wanted_open = is_open
        if self._moving is None or self._moving.done():
            self._moving = asyncio.get_running_loop().create_task(self._move())

    async def close(self) -> None:
        """Release the address."""
        if self._moving is not None:
            self._moving.cancel()
            await asyncio.gather(self._moving, return_exceptions=True)
        if self._kept is not None:
            self._kept.close()

    async def _move(self) -> None:
        while self._wanted_open != (self._site is not None):
            await (self.open() if self._wanted_open else self.shut())

    def _bound(self) -> socket.socket:
        bound = socket.socket(self._family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(self._address)
        bound.setblocking(False)
        self._address = bound.getsockname()
        return bound
