"""A connection that keeps the beginning of the answer as it came, for an answer that its parser refuses."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import _EXC_SENTINEL

KEPT_BYTES_MAX: Final = 64 << 10
"""Of one answer, with its headers. A response's id stands at its beginning."""


class KeptHandler(ResponseHandler):
    """aiohttp's side of a connection. `kept` is the beginning of the answer to the last request."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.requests = 0
        """How many were sent: the connection is used again."""
        self._pieces: list[bytes] = []
        self._room = KEPT_BYTES_MAX

    @property
    def kept(self) -> bytes:
        return b"".join(self._pieces)

    def set_response_params(self, **options: Any) -> None:
        self.requests += 1
        self._pieces = []
        self._room = KEPT_BYTES_MAX
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        if self._room:
            piece = data[: self._room]
            self._pieces.append(piece)
            self._room -= len(piece)
        super().data_received(data)

    def set_exception(self, exc: BaseException, exc_cause: BaseException = _EXC_SENTINEL) -> None:
        exc.kept = self.kept  # type: ignore[attr-defined]
        super().set_exception(exc, exc_cause)


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The answer that a connection is receiving now. Another call may use the connection later."""

    handler: KeptHandler
    request: int

    @classmethod
    def on(cls, connection: aiohttp.connector.Connection | None) -> Self | None:
        handler = None if connection is None else connection.protocol
        return cls(handler, handler.requests) if isinstance(handler, KeptHandler) else None

    @property
    def content(self) -> bytes:
        """Its beginning; empty where the connection has another call."""
        return self.handler.kept if self.handler.requests == self.request else b""


def kept_of(error: aiohttp.ClientResponseError) -> bytes:
    """What had come of an answer that was refused."""
    kept = getattr(error.__cause__, "kept", b"")
    return kept if isinstance(kept, bytes) else b""
