"""One request to a service of Google: bounded, without redirects, and an error that names no credential."""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import aiohttp
import orjson
from aiohttp.helpers import get_env_proxy_for_url
from yarl import URL

from backstop.runtime.bucket_requests import CONNECT_S, REQUEST_S, BucketRequestError, Trouble
from schemas.text import printable

ANSWER_BYTES_MAX: Final = 1 << 20
"""Of an answer whose size nothing else bounds: a document about one object has a kilobyte."""
TOLD_CHARS_MAX: Final = 300
PART_BYTES: Final = 1 << 20
"""So much of a body is handed to the connection at once."""

_THROTTLED: Final = re.compile("rateLimitExceeded|userRateLimitExceeded|SlowDown")
_CLOCK: Final = re.compile("reasonable timeframe|RequestTimeTooSkewed")
"""The first is of the token endpoint, about `iat` and `exp`."""


class GoogleAnswer(NamedTuple):
    status: int
    body: memoryview

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed a moment later."""
        return self.status in {401, 408, 429} or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR

    def document(self) -> dict[str, Any]:
        """:raises BucketRequestError: it is no JSON object, so another server sent it."""
        with suppress(orjson.JSONDecodeError):
            told = orjson.loads(self.body)
            if isinstance(told, dict):
                return told
        raise BucketRequestError("failed", f"{self.status}: no JSON object")

    def text(self) -> str:
        return printable(bytes(self.body[:4096]).decode(errors="replace"))

    def is_of_google(self) -> bool:
        """Whether an error is one of the JSON interface. Else a proxy, or another server, may have sent it."""
        try:
            return isinstance(self.document().get("error"), dict | str)
        except BucketRequestError:
            return False

    def error(self) -> BucketRequestError:
        text = self.text()
        return BucketRequestError(
            _trouble(self.status, text), f"{self.status}: {self._told(text)}", passing=self.passes
        )

    def _told(self, text: str) -> str:
        error = self.document().get("error") if self.is_of_google() else None
        message = error.get("message") if isinstance(error, dict) else None
        return printable(message if isinstance(message, str) else text)[:TOLD_CHARS_MAX]


def _trouble(status: int, text: str) -> Trouble:
    if _CLOCK.search(text):
        return "clock"
    if status in {429, 503} or _THROTTLED.search(text):
        return "throttled"
    return "denied" if status in {401, 403} else "failed"


class GoogleWeb:
    """Connections, made in the loop of the first request."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self, method: str, url: str, *, headers: Mapping[str, str], data: Sequence[bytes | memoryview] = (),
        direct: bool = False, announced: Callable[[int], None] | None = None,
    ) -> GoogleAnswer:  # fmt: skip
        """Send one request, through the proxy that the environment names unless `direct`.

        :param announced: is told the size of the content before it is read; without it, `ANSWER_BYTES_MAX` are read.
        :raises BucketRequestError: no answer, or one that is no whole answer.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=REQUEST_S, sock_connect=CONNECT_S),
            )  # fmt: skip
        address, proxy, proxy_auth = URL(url, encoded=True), None, None
        if not direct:
            with suppress(LookupError):
                proxy, proxy_auth = get_env_proxy_for_url(address)
        sent = {"Accept-Encoding": "identity", **headers}
        if method == "POST":
            sent["Content-Length"] = str(sum(map(len, data)))
        try:
            async with self._session.request(
                method, address, headers=sent, data=_parts(data) if data else None, allow_redirects=False,
                proxy=proxy, proxy_auth=proxy_auth,
            ) as answer:  # fmt: skip
                if announced is None or answer.status != HTTPStatus.OK:
                    return GoogleAnswer(answer.status, await _up_to(answer, ANSWER_BYTES_MAX))
                return GoogleAnswer(answer.status, await _whole(answer, announced))
        except TimeoutError as error:
            raise BucketRequestError("unreachable", "no answer in time", passing=True) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            told = printable(f"{type(error).__name__}: {error}")[:TOLD_CHARS_MAX]
            raise BucketRequestError("unreachable", told, passing=True) from error

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


async def _parts(data: Sequence[bytes | memoryview]) -> AsyncIterator[memoryview]:
    for given in data:
        part = memoryview(given)
        for begin in range(0, len(part), PART_BYTES):
            yield part[begin : begin + PART_BYTES]


async def _up_to(answer: aiohttp.ClientResponse, bytes_max: int) -> memoryview:
    found = bytearray()
    async for chunk in answer.content.iter_any():
        found += chunk
        if len(found) > bytes_max:
            raise BucketRequestError("failed", f"{answer.status}: over {bytes_max} bytes")
    return memoryview(found)


async def _whole(answer: aiohttp.ClientResponse, announced: Callable[[int], None]) -> memoryview:
    size_bytes = answer.content_length
    if size_bytes is None or "Content-Encoding" in answer.headers:
        raise BucketRequestError("failed", "the answer announces no length, or is packed")
    announced(size_bytes)
    found = bytearray()
    async for chunk in answer.content.iter_any():
        found += chunk
    if len(found) != size_bytes:
        raise BucketRequestError("unreachable", f"{len(found)} of {size_bytes} bytes came", passing=True)
    return memoryview(found)
