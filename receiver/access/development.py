"""Who is let in where there are no keys: programs on this machine, and pages that this process served itself.

A key is shown on purpose; an address is not. So without keys a browser of this machine could be made to call by any page that it
shows, under our name (cross-site), or under a name that was made to point here (DNS rebinding), and a proxy that runs here could
bring in the whole world. Each of these says so in its headers, and is refused.
"""

from typing import Final

from aiohttp import HttpVersion11, hdrs, web

from backstop.runtime.addresses import is_loopback_host
from receiver.problems import Problem, Refusal

FORWARDED: Final = frozenset({
    "forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "client-ip", "true-client-ip", "cf-connecting-ip",
    "fastly-client-ip", "fly-client-ip", "x-original-host", "x-original-url", "x-original-to", "x-host", "x-rewrite-url",
    "x-proxyuser-ip", "x-remote-ip", "x-remote-addr", "x-appengine-user-ip", "x-arr-ssl", "x-arr-log-id", "x-amzn-trace-id",
    "x-cloud-trace-context", "x-varnish", "cdn-loop", "front-end-https", "x-scheme",
})  # fmt: skip
"""What proxies, load balancers and networks in front add to a request, and no client of its own accord."""
FORWARDED_PREFIXES: Final = ("x-forwarded", "x-envoy-", "x-azure-", "cf-", "x-proxy-")
OWN_SITES: Final = frozenset({"same-origin", "none"})
"""`none`: the person at the browser asked for it. Another port of this machine is another program: `same-site` is not enough."""

FOREIGN_HOST: Final = Problem(
    403, "foreign_host",
    "Without keys, only http://localhost and http://127.0.0.1 are served. Make a key: backstop keys create.",
)  # fmt: skip
FORWARDED_REQUEST: Final = Problem(
    403, "forwarded_request",
    "Without keys, nothing is served that came through a proxy. Make a key: backstop keys create.",
)  # fmt: skip
CROSS_SITE: Final = Problem(
    403, "cross_site",
    "Without keys, no page of another origin may call. Make a key: backstop keys create.",
)  # fmt: skip


def refuse_foreign_pages(request: web.Request) -> None:
    """For what needs a key elsewhere.

    :raises Refusal: 403.
    """
    hosts = request.headers.getall(hdrs.HOST, ())
    if len(hosts) != 1 or not is_loopback_host(_without_port(hosts[0])):
        raise Refusal(FOREIGN_HOST)
    # nginx says nothing of itself unless told to, but speaks HTTP/1.0 to what stands behind it. No client of today does.
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
