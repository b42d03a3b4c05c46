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

OF_PROXIES: Final = frozenset({
    "akamai", "amzn", "appengine", "appgw", "arr", "authelia", "authenticated", "authentik", "azure", "caddy", "cdn",
    "cf", "cloudflare", "cloudfront", "cluster", "coming", "connecting", "edge", "envoy", "fastly", "fly", "forwards",
    "haproxy", "ingress", "ip", "istio", "kong", "netlify", "nginx", "ngrok", "original", "ray", "real", "remote",
    "render", "server", "ssl", "tailscale", "tls", "traefik", "upstream", "varnish", "vercel", "via",
})  # fmt: skip
"""Words in the names of headers by which reverse proxies, tunnels and networks of delivery tell what they have done."""
OF_PROXIES_WITHIN: Final = (
    "auth-request", "client-cert", "client-verify", "clientip", "cloud-trace", "forwarded", "proxy", "realip",
    "request-start",
)  # fmt: skip
"""Parts of such names, in any place."""
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
PROXYS_HEADER: Final = (
    "The header {name!r} is one that proxies add. Without keys, requests through a proxy are refused. Leave it out, or "
    "make a key: backstop keys create."
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
    added = next((name for name in request.headers if _is_of_a_proxy(name.lower().replace("_", "-"))), None)
    if added is not None:
        raise Refusal(replace(FORWARDED_REQUEST, detail=PROXYS_HEADER.format(name=added[:NAME_CHARS_MAX])))
    if _is_cross_site(request, hosts[0]):
        raise Refusal(CROSS_SITE)


def _is_of_a_proxy(name: str) -> bool:
    return not OF_PROXIES.isdisjoint(name.split("-")) or any(part in name for part in OF_PROXIES_WITHIN)


def _is_cross_site(request: web.Request, host: str) -> bool:
    sites = request.headers.getall("Sec-Fetch-Site", ())
    origins = request.headers.getall(hdrs.ORIGIN, ())
    own = f"http://{host}".lower()
    return any(site.lower() not in OWN_SITES for site in sites) or any(origin.lower() != own for origin in origins)


def _is_own(host: str) -> bool:
    name = _PORT.sub("", host.lower())
    return "%" not in name and is_loopback_host(name)
