"""The connections under the SDK: aiohttp's, with proxies, certificates and keys as the plain SDK takes them from the environment.

Which proxy a call takes is decided by the SDK's own HTTP client (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, lower case
before upper case), so it cannot differ from the plain SDK; only the connections are made here. The environment is read once, when a
client is made.
"""

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
from openai import DefaultAioHttpClient
from openai._vendor.httpx_aiohttp import AiohttpTransport
from yarl import URL

from backstop.runtime.errors import ConfigurationError

KEEPALIVE_S = 5.0
"""As the SDK has it. Longer, and more creates would meet a connection that the server is just closing: unknown outcomes."""

PROBE_IDLE_S, PROBE_EVERY_S, PROBES_MAX = 60, 30, 4
"""A server may hold a create until its run is over: without these a firewall on the way forgets the silent connection, and nobody is told."""

NO_PROXY_URL = "HTTPS_PROXY, HTTP_PROXY and ALL_PROXY must be http:// or https:// with a host, and percent-encode a name and password"


class Progress:
    """How far one call has come. `nothing_left`: it began, and had no connection yet, so no byte of the request has left."""

    def __init__(self) -> None:
        self.began = False
        self.connected = False

    @property
    def nothing_left(self) -> bool:
        return self.began and not self.connected


_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def watched() -> Iterator[Progress]:
    """Watch the call that is made within the block. A tunnel that a proxy did not open is no connection."""
    progress = Progress()
    token = _progress.set(progress)
    try:
        yield progress
    finally:
        _progress.reset(token)


class HttpClient(DefaultAioHttpClient):
    """The SDK's client over connections of ours. Redirects are not followed: a 307 loop made 21 POSTs of one create.

    :raises ConfigurationError: the environment names a proxy that is none.
    """

    def __init__(self, connections_max: int, tls: ssl.SSLContext, *, keyless: bool = False) -> None:
        self._tls = tls
        self._make_session = partial(_make_session, connections_max, tls)
        try:
            super().__init__(
                follow_redirects=False, event_hooks={"request": [_without_authorization]} if keyless else None
            )
        except (ValueError, httpx2.InvalidURL):
            # Their text would show the password.
            raise ConfigurationError(NO_PROXY_URL) from None

    def _init_transport(self, *_args: Any, **_options: Any) -> httpx2.AsyncBaseTransport:
        return AiohttpTransport(verify=self._tls, client=self._make_session)

    def _init_proxy_transport(self, proxy: httpx2.Proxy, *_args: Any, **_options: Any) -> httpx2.AsyncBaseTransport:
        if proxy.url.scheme not in ("http", "https") or not proxy.url.host:
            raise ConfigurationError(NO_PROXY_URL)
        return AiohttpTransport(verify=self._tls, client=partial(self._make_session, _with_credentials(proxy)))


async def _without_authorization(request: httpx2.Request) -> None:
    del request.headers["authorization"]  # the SDK does not do without one


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Who is trusted (`SSL_CERT_FILE`, else `SSL_CERT_DIR`, else the system's store), and the certificate that we show.

    :raises ConfigurationError: a file can't be read, or is no certificate or key; names the variable.
    """
    try:
        context = httpx2.create_ssl_context()
    except OSError as error:
        raise ConfigurationError(f"SSL_CERT_FILE or SSL_CERT_DIR can't be used: {error}") from None
    if certificate is not None:
        try:
            # Without an answer of ours, OpenSSL would ask the terminal for the password of an encrypted key.
            context.load_cert_chain(certificate, key, password="")
        except OSError as error:
            raise ConfigurationError(
                "BACKSTOP_OPENAI_CLIENT_CERTIFICATE with BACKSTOP_OPENAI_CLIENT_KEY must be a certificate and its key in PEM, "
                f"the key not encrypted: {error}"
            ) from None
    return context


def _with_credentials(proxy: httpx2.Proxy) -> URL:
    name, password = proxy.auth or (None, None)
    return URL(str(proxy.url)).with_user(name or None).with_password(password or None)


def _make_session(connections_max: int, tls: ssl.SSLContext, proxy: URL | None = None) -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=connections_max, keepalive_timeout=KEEPALIVE_S, ssl=tls, socket_factory=_make_socket
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=proxy,
        trace_configs=[_tracing()],
    )
    # It would send a look again on a fresh connection when a kept one has closed, past the global rate. There is no argument for it.
    session._retry_connection = False  # noqa: SLF001
    # The SDK's URLs are percent-encoded already. Read once more, `%2E%2E` in a path would be `..`, another address.
    session._build_url = _as_it_is  # type: ignore[assignment,method-assign]  # noqa: SLF001
    return session


def _as_it_is(url: str | URL) -> URL:
    # A name and password in the base URL are a header by now, and aiohttp takes only one of the two.
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
        progress.connected = True
