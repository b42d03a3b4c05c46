"""Access without keys (development): for programs on this machine, and for pages that this process served.

Without keys the address of a request is no proof. Any page in a browser on this machine could call the receiver,
cross-site or by DNS rebinding, and a proxy on this machine could forward requests from anywhere. The headers of such
requests show it, and they are refused.
"""

from typing import Final

from aiohttp import HttpVersion11, hdrs, web

from backstop.runtime.addresses import is_loopback_host
from receiver.problems import Problem, Refusal

FORWARDED: Final = frozenset({
    "forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "client-ip", "true-client-ip",
    "cf-connecting-ip", "fastly-client-ip", "fly-client-ip", "x-original-host", "x-original-url", "x-original-to",
    "x-host", "x-rewrite-url", "x-proxyuser-ip", "x-remote-ip", "x-remote-addr", "x-appengine-user-ip", "x-arr-ssl",
    "x-arr-log-id", "x-amzn-trace-id", "x-cloud-trace-context", "x-varnish", "cdn-loop", "front-end-https", "x-scheme",
})  # fmt: skip
"""Headers that proxies, load balancers and CDNs add, and that clients do not send by themselves."""
FORWARDED_PREFIXES: Final = ("x-forwarded", "x-envoy-", "x-azure-", "cf-", "x-proxy-")
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
CROSS_SITE: Final = Problem(
    403, "cross_site",
    "Without keys, requests of pages from another origin are refused. Make a key: backstop keys create.",
)  # fmt: skip


def refuse_foreign_pages(request: web.Request) -> None:
    """The check that replaces a key in development.

    :raises Refusal: 403, another host name, a proxy, or a page of another origin.
    """
    hosts = request.headers.getall(hdrs.HOST, ())
    if len(hosts) != 1 or not is_loopback_host(_without_port(hosts[0])):
        raise Refusal(FOREIGN_HOST)
    # nginx adds no header by default, but uses HTTP/1.0 to its upstream; current clients do not.
    if request.version < HttpVersion11 or any(_is_of_a_proxy(name.lower()) for name in request.headers):
        raise Refusal(FORWARDED_REQUEST)
    if _is_cross_site(request, hosts[0]):
        raise Refusal(CROSS_SITE)


def _is_of_a_proxy(name: str) -> bool:
    return name in FORWARDED or name.startswith(FORWARDED_PREFIXES)


def _is_cross_site(request: web.Request, host: str) -> bool:
    sites = request.headers.getall("Sec-Fetch-Site", ())
    origins = request.headers.getall(hdrs.ORIGIN, ())
    own = f"http://{host}".lower()
    return any(site.lower() not in OWN_SITES for site in sites) or any(origin.lower() != own for origin in origins)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()
