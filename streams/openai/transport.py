"""The SDK's connections: aiohttp, with proxies and certificates from the environment as in the plain SDK.

The SDK's own HTTP client selects the proxy of a call (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, lower case
before upper case), so the choice is the same as in the plain SDK; only the connections are made here. The environment
is read once, when a client is made.
"""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import httpx2
from yarl import URL

from backstop.runtime.errors import ConfigurationError
from streams.answer_memory import holding
from streams.openai.bounded import AnswerLimits, BoundedTransport, Reading
from streams.openai.kept_handler import KeptHandler
from streams.openai.sdk import DefaultAioHttpClient

KEEPALIVE_S = 5.0
"""The SDK's default. If longer, more creates would meet a connection that the server is closing: unknown outcomes."""

PROBE_IDLE_S, PROBE_EVERY_S, PROBES_MAX = 60, 30, 4
"""TCP keepalive: a server may hold a create until its run is over, and a firewall drops idle connections silently."""

HEADERS_BYTES_MAX = 64 << 10
"""Of one header line. aiohttp's own limit (8 KiB) is below what gateways send, and an acceptance would be lost."""

NO_PROXY_URL = (
    "HTTPS_PROXY, HTTP_PROXY and ALL_PROXY must be http:// or https:// with a host, and percent-encode a name and "
    "password"
)


class Progress:
    """The progress of one call. `nothing_left`: it began but got no connection, so no byte of the request was sent."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.began = False

    @property
    def nothing_left(self) -> bool:
        return self.began and not self.reading.connected


_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def watched(*, streams: bool = False) -> Iterator[Progress]:
    """Track the progress of the call inside the block. A tunnel that a proxy refused is no connection.

    With `streams`, a stream of events is returned unread.
    """
    with holding() as hold:
        progress = Progress(Reading(hold, streams))
        token = _progress.set(progress)
        try:
            yield progress
        finally:
            _progress.reset(token)


def _reading() -> Reading:
    progress = _progress.get()
    assert progress is not None, "every call is watched"
    return progress.reading


class HttpClient(DefaultAioHttpClient):
    """The SDK's HTTP client with these connections. It does not follow redirects: a 307 loop made 21 POSTs of one
    create.

    :raises ConfigurationError: a proxy URL in the environment is invalid.
    """

    def __init__(
        self, connections_max: int, tls: ssl.SSLContext, answers: AnswerLimits, *, keyless: bool = False
    ) -> None:
        self._tls = tls
        self._answers = answers
        self._make_session = partial(_make_session, connections_max, tls)
        try:
            super().__init__(
                follow_redirects=False, event_hooks={"request": [_without_authorization]} if keyless else None
            )
        except (ValueError, httpx2.InvalidURL):
            # The text of the original error would show the password.
            raise ConfigurationError(NO_PROXY_URL) from None

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """As httpx's `send`. A plain call passes its layers for authentication and redirects, which do nothing here."""
        if stream or options or self._auth is not None or request.url.userinfo:
            return await super().send(request, stream=stream, **options)
        if self.is_closed:
            raise RuntimeError("the client is closed")
        for hook in self.event_hooks["request"]:
            await hook(request)
        response = await self._transport_for_url(request.url).handle_async_request(request)
        if "set-cookie" in response.headers:
            self.cookies.extract_cookies(response)
        return response

    def _init_transport(self, *_args: Any, **_options: Any) -> httpx2.AsyncBaseTransport:
        return BoundedTransport(self._answers, _reading, verify=self._tls, client=self._make_session)

    def _init_proxy_transport(self, proxy: httpx2.Proxy, *_args: Any, **_options: Any) -> httpx2.AsyncBaseTransport:
        if proxy.url.scheme not in ("http", "https") or not proxy.url.host:
            raise ConfigurationError(NO_PROXY_URL)
        session = partial(self._make_session, _with_credentials(proxy))
        return BoundedTransport(self._answers, _reading, verify=self._tls, client=session)


async def _without_authorization(request: httpx2.Request) -> None:
    del request.headers["authorization"]  # The SDK always sets it.


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """The trusted certificates (`SSL_CERT_FILE`, else `SSL_CERT_DIR`, else the system's store), and the client
    certificate.

    :raises ConfigurationError: a file can't be read, or is no certificate or key; the message names the variable.
    """
    try:
        context = httpx2.create_ssl_context()
    except OSError as error:
        raise ConfigurationError(f"SSL_CERT_FILE or SSL_CERT_DIR can't be used: {error}") from None
    if certificate is not None:
        try:
            # Without a password argument, OpenSSL would ask for the password of an encrypted key on the terminal.
            context.load_cert_chain(certificate, key, password="")
        except OSError as error:
            raise ConfigurationError(
                "BACKSTOP_OPENAI_CLIENT_CERTIFICATE with BACKSTOP_OPENAI_CLIENT_KEY must be a certificate and its key "
                f"in PEM, the key not encrypted: {error}"
            ) from None
    return context


def _with_credentials(proxy: httpx2.Proxy) -> URL:
    name, password = proxy.auth or (None, None)
    return URL(str(proxy.url)).with_user(name or None).with_password(password or None)


def _make_session(connections_max: int, tls: ssl.SSLContext, proxy: URL | None = None) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=connections_max, keepalive_timeout=KEEPALIVE_S, ssl=tls, socket_factory=_make_socket
    )
    # An answer that aiohttp's parser refuses may name the response that was created. There is no argument for that.
    connector._factory = partial(  # type: ignore[assignment]  # noqa: SLF001
        KeptHandler, loop=asyncio.get_running_loop()
    )
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=proxy,
        max_line_size=HEADERS_BYTES_MAX,
        max_field_size=HEADERS_BYTES_MAX,
        trace_configs=[_tracing()],
    )
    # aiohttp would repeat a poll on a new connection when a kept one has closed, bypassing the rate limit. It has no
    # argument to turn that off.
    session._retry_connection = False  # noqa: SLF001
    # The SDK's URLs are already percent-encoded. Decoded again, `%2E%2E` in a path would become `..`, another path.
    session._build_url = _as_it_is  # type: ignore[assignment,method-assign]  # noqa: SLF001
    return session


def _as_it_is(url: str | URL) -> URL:
    # Name and password of the base URL are already in a header, and aiohttp accepts only one of the two.
    return url if isinstance(url, URL) else URL(url, encoded=True).with_user(None)


def _make_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", PROBE_IDLE_S), ("TCP_KEEPINTVL", PROBE_EVERY_S), ("TCP_KEEPCNT", PROBES_MAX),
    ):  # fmt: skip
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


def _tracing() -> aiohttp.TraceConfig:
    trace: Final = aiohttp.TraceConfig()
    trace.on_request_start.append(_on_start)
    trace.on_connection_create_end.append(_on_connection)
    trace.on_connection_reuseconn.append(_on_connection)
    return trace


async def _on_start(*_: object) -> None:
    if (progress := _progress.get()) is not None:
        progress.began = True


async def _on_connection(*_: object) -> None:
    if (progress := _progress.get()) is not None:
        progress.reading.connected = True
