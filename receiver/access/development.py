"""Access without keys (development): for programs on this machine, and for pages that this process served.

Without keys the address of a request is no proof. Any page in a browser on this machine could call the receiver,
cross-site or by DNS rebinding, and a proxy on this machine could forward requests from anywhere. The headers of such
requests show it, and they are refused.
"""

import re
from dataclasses import replace
from typing import Final

from aiohttp import HttpVersion11, hdrs, web

from backstop.runtime.addresses import is_loopback_host
from receiver.problems import Problem, Refusal

OF_CLIENTS: Final = frozenset({
    # HTTP clients, Java's beside them: it offers HTTP/2 with the first request.
    "accept", "accept-charset", "accept-encoding", "accept-language", "authorization", "cache-control", "connection",
    "content-disposition", "content-encoding", "content-language", "content-length", "content-md5", "content-type",
    "cookie", "date", "digest", "expect", "from", "host", "http2-settings", "if-match", "if-modified-since",
    "if-none-match", "if-range", "if-unmodified-since", "keep-alive", "mime-version", "pragma", "prefer", "range", "te",
    "trailer", "transfer-encoding", "upgrade", "user-agent",
    # Browsers, and tools that are built like one.
    "access-control-request-headers", "access-control-request-method", "access-control-request-private-network", "dnt",
    "device-memory", "downlink", "dpr", "ect", "last-event-id", "origin", "postman-token", "priority", "purpose",
    "referer", "rtt", "save-data", "service-worker", "upgrade-insecure-requests", "viewport-width", "width",
    "x-devtools-emulate-network-conditions-client-id", "x-requested-with", "x-schemathesis-testcaseid",
    # SDKs and traces.
    "b3", "baggage", "elastic-apm-traceparent", "idempotency-key", "langsmith-trace", "newrelic", "sentry-trace",
    "traceparent", "tracestate", "uber-trace-id", "x-client-request-id",
})  # fmt: skip
"""Names of headers that clients on this machine send by themselves. A list of what proxies add would have no end."""
OF_CLIENTS_BEGIN: Final = ("backstop-", "openai-", "sec-", "x-b3-", "x-datadog-", "x-stainless-")
NAME_CHARS_MAX: Final = 100

_PORT: Final = re.compile(r":[0-9]{1,5}$")
OWN_SITES: Final = frozenset({"same-origin", "none"})
"""`none`: the user entered the address. `same-site` is refused: another port of this machine is another program."""

FOREIGN_HOST: Final = Problem(
    403, "foreign_host",
    "Without keys, only http://localhost and http://127.0.0.1 are served. Make a key: backstop keys create.",
)  # fmt: skip
FORWARDED_REQUEST: Final = Problem(
    403, "forwarded_request",
    "Without keys, requests through a proxy are refused. Make a key: backstop keys create.",
)  # fmt: skip
FOREIGN_HEADER: Final = (
    "The header {name!r} is not one that a program on this machine sends by itself, so a proxy may have added it. "
    "Without keys such requests are refused. Leave it out, or make a key: backstop keys create."
)
CROSS_SITE: Final = Problem(
    403, "cross_site",
    "Without keys, requests of pages from another origin are refused. Make a key: backstop keys create.",
)  # fmt: skip


def refuse_foreign_pages(request: web.Request) -> None:
    """The check that replaces a key in development.

    :raises Refusal: 403, another host name, a proxy, or a page of another origin.
    """
    hosts = request.headers.getall(hdrs.HOST, ())
    # A target may have a host of its own, which then counts (RFC 9112, 3.2.2): `request.host`.
    if len(hosts) != 1 or not _is_own(hosts[0]) or not _is_own(request.host):
        raise Refusal(FOREIGN_HOST)
    # nginx before 1.29.7 adds no header by default, but uses HTTP/1.0 to its upstream; current clients do not.
    if request.version < HttpVersion11:
        raise Refusal(FORWARDED_REQUEST)
    foreign = next((name for name in request.headers if not _is_of_a_client(name.lower())), None)
    if foreign is not None:
        raise Refusal(replace(FORWARDED_REQUEST, detail=FOREIGN_HEADER.format(name=foreign[:NAME_CHARS_MAX])))
    if _is_cross_site(request, hosts[0]):
        raise Refusal(CROSS_SITE)


def _is_of_a_client(name: str) -> bool:
    return name in OF_CLIENTS or name.startswith(OF_CLIENTS_BEGIN)


def _is_cross_site(request: web.Request, host: str) -> bool:
    sites = request.headers.getall("Sec-Fetch-Site", ())
    origins = request.headers.getall(hdrs.ORIGIN, ())
    own = f"http://{host}".lower()
    return any(site.lower() not in OWN_SITES for site in sites) or any(origin.lower() != own for origin in origins)


def _is_own(host: str) -> bool:
    name = _PORT.sub("", host.lower())
    return "%" not in name and is_loopback_host(name)
