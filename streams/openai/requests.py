"""The SDK's requests, without the work that the SDK repeats at each call.

The SDK builds, copies and validates models of its own around each request: more processor time than the call itself.
What it sends depends on the account and the call only. So it makes one request of each method when the client is made,
and their headers and URL serve all calls. The SDK's HTTP client sends them: proxies, certificates, cookies and the
limits of answers are the same as in the SDK's own calls. Answers of every status are returned; errors are httpx's.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final, Literal, get_args

import httpx2

from streams.openai.sdk import AsyncOpenAI, FinalRequestOptions
from streams.openai.unpacking import CODINGS

Method = Literal["GET", "POST", "DELETE"]

WHOLE_BYTES_MAX: Final = 1 << 20
PIECE_BYTES: Final = 256 << 10

_OF_ONE_CALL: Final = frozenset(
    (b"host", b"content-length", b"cookie", b"idempotency-key", b"x-stainless-read-timeout")
)


class RequestSender:
    """Makes and sends the requests of one account."""

    def __init__(self, sdk: AsyncOpenAI) -> None:
        self._sdk = sdk
        self._http: httpx2.AsyncClient = sdk._client  # noqa: SLF001 - no public attribute has it
        self._base_url = str(sdk.base_url).rstrip("/")
        self._headers = {method: httpx2.Headers(_headers(sdk, method)) for method in get_args(Method)}

    async def send(
        self, method: Method, path: str, *, timeouts: httpx2.Timeout, content: Sequence[bytes] = (),
        params: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None, stream: bool = False,
    ) -> httpx2.Response:  # fmt: skip
        """Send one request; return its answer, whatever its status. The SDK's retries and redirects do not apply.

        :param path: percent-encoded, below the base URL.
        :param content: the body, in parts. A large one is sent piece by piece: a whole one would be encrypted at once.
        :param stream: whether the answer comes unread. Else it is whole.
        """
        query = f"?{self._sdk.qs.stringify(params)}" if params else ""
        own = {"x-stainless-read-timeout": str(timeouts.read), **(headers or {})}
        size_bytes = sum(map(len, content))
        whole = b"".join(content) if content and size_bytes <= WHOLE_BYTES_MAX else None
        if size_bytes > WHOLE_BYTES_MAX:
            own["Content-Length"] = str(size_bytes)
        made = httpx2.Headers(self._headers[method])  # A copy costs less than all headers again.
        made.update(own)
        request = httpx2.Request(
            method,
            f"{self._base_url}{path}{query}",
            headers=made,
            cookies=self._http.cookies or None,
            content=whole if size_bytes <= WHOLE_BYTES_MAX else _pieces(content),
            extensions={"timeout": timeouts.as_dict()},
        )
        return await self._http.send(request, stream=stream)

    async def close(self) -> None:
        await self._sdk.close()


async def _pieces(content: Sequence[bytes]) -> AsyncGenerator[bytes, None]:
    for part in content:
        view = memoryview(part)
        for at in range(0, len(view), PIECE_BYTES):
            yield bytes(view[at : at + PIECE_BYTES])


def _headers(sdk: AsyncOpenAI, method: str) -> list[tuple[bytes, bytes]]:
    """The headers that the SDK gives to each request of a method."""
    request = sdk._build_request(FinalRequestOptions.construct(method=method.lower(), url="/responses"))  # noqa: SLF001
    request.headers["Accept-Encoding"] = CODINGS
    return [(name, value) for name, value in request.headers.raw if name.lower() not in _OF_ONE_CALL]
