"""A connection that keeps the beginning of the answer as it came, for an answer that its parser refuses."""

import asyncio
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler

KEPT_BYTES_MAX: Final = 64 << 10
"""Of one answer, with its headers. A response's id stands at its beginning."""


class KeptHandler(ResponseHandler):
    """aiohttp's side of a connection. `kept` is the beginning of the answer to the last request."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._pieces: list[bytes] = []
        self._room = KEPT_BYTES_MAX

    @property
    def kept(self) -> bytes:
        return b"".join(self._pieces)

    def set_response_params(self, **options: Any) -> None:
        self._pieces = []
        self._room = KEPT_BYTES_MAX
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        if self._room:
            piece = data[: self._room]
            self._pieces.append(piece)
            self._room -= len(piece)
        super().data_received(data)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        exc.kept = self.kept  # type: ignore[attr-defined]
        super().set_exception(exc, *cause)


def kept_of(error: aiohttp.ClientResponseError) -> bytes:
    """What had come of an answer that was refused."""
    kept = getattr(error.__cause__, "kept", b"")
    return kept if isinstance(kept, bytes) else b""
