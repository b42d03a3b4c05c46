"""Bodies of requests: bounded in size, time, depth and memory, before anybody looks at them."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from receiver.problems import Problem, Refusal, unavailable
from runtime.authority import owner_now
from runtime.shares import Shares


class NotJsonError(ValueError):
    """Not JSON, or nested deeper than allowed. The sentence holds nothing of the body."""


class BodyMemory:
    """The bytes of bodies that are held at one time. A slow client takes no more of it than what it has sent."""

    def __init__(self, bytes_max: int, retry_after_s: int) -> None:
        # What a body has sent can't be taken back, so nobody may take more than it leaves free.
        self._shares = Shares(bytes_max, greed=1)
        self._retry_after_s = retry_after_s

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """A function that takes bytes and refuses with 503 when there are none; all are given back at the end."""
        taken_bytes, owner = 0, owner_now()

        def take(size_bytes: int) -> None:
            nonlocal taken_bytes
            if not self._shares.ask_sparing(owner, size_bytes):
                raise unavailable("busy", "Too much is being received at the moment.", self._retry_after_s)
            taken_bytes += size_bytes

        try:
            yield take
        finally:
            self._shares.give_back(owner, taken_bytes)


def _count_nothing(_size_bytes: int) -> None:
    """For bodies so small that the limit on connections bounds their sum."""


async def read_body(
    request: web.Request, *, bytes_max: int, within_s: float, take: Callable[[int], None] = _count_nothing
) -> bytes:
    """The raw bytes, never decompressed.

    :raises Refusal: 415 compressed, 413 too large (unread where it says so itself), 408 too slow, 400 cut off.
    """
    encodings = {
        part.strip().lower() for value in request.headers.getall(hdrs.CONTENT_ENCODING, ()) for part in value.split(",")
    }
    if encodings - {"identity", ""}:
        raise Refusal(Problem(415, "encoded_body", "Send the body without Content-Encoding."))
    too_large = Refusal(Problem(413, "body_too_large", f"The body may have {bytes_max} bytes."))
    if (request.content_length or 0) > bytes_max:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for chunk in request.content.iter_any():
                if len(body) + len(chunk) > bytes_max:
                    raise too_large
                take(len(chunk))
                body += chunk
    except TimeoutError:
        raise Refusal(Problem(408, "body_too_slow", f"The body did not come within {within_s:g} s.")) from None
    except (OSError, web.RequestPayloadError, HttpProcessingError):
        raise Refusal(Problem(400, "body_incomplete", "The body ended before it was complete.")) from None
    return bytes(body)


def load_json(data: bytes, depth_max: int) -> Any:
    """The JSON value of `data`.

    :raises NotJsonError: it has none, or one that nests deeper than `depth_max`.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise NotJsonError(f"not JSON: {error.msg} at {error.pos}") from None
    if _deeper_than(value, depth_max):
        raise NotJsonError(f"nested deeper than {depth_max} levels")
    return value


def _deeper_than(value: Any, depth_max: int) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(depth_max):
        if not level:
            return False
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
    return bool(level)
