"""Access without keys (development): for programs on this machine, and for pages that this process served.

Without keys the address of a request is no proof. Any page in a browser on this machine could call the receiver,
cross-site or by DNS rebinding, and a proxy on this machine could forward requests from anywhere. The headers of such
requests show it, and they are refused.
"""

import re
from typing import Final

from aiohttp import HttpVersion11, hdrs, web

from backstop.runtime.addresses import is_loopback_host
from receiver.problems import Problem, Refusal

OF_A_PROXY: Final = frozenset({
    # What a proxy tells of the request that it got.
    "forward", "forwarded", "forwards", "via", "proxy", "proxyuser", "real", "ip", "ips", "clientip", "remote",
    "original", "originating", "rewrite", "host", "scheme", "https", "ssl", "hop", "hops", "cert", "connecting",
    # The users that it has authenticated.
    "webauth", "jwt", "oidc", "authenticated", "login",
    # Its own name.
    "akamai", "amz", "amzn", "appengine", "arr", "azure", "bluecoat", "cdn", "cf", "cloud", "cloudflare", "cloudfront",
    "envoy", "fastly", "fly", "goog", "haproxy", "heroku", "ngrok", "nginx", "nf", "pomerium", "render", "replit",
    "sucuri", "tailscale", "traefik", "varnish", "vercel", "wl",
})  # fmt: skip
"""Words in the names of headers that proxies, load balancers and CDNs add, and that clients do not send by themselves.
Words and not names: X-Forwarded-For is also spelled X_FORWARDED_FOR and X-Original-Forwarded-For."""
_HOST: Final = "host"
_WORDS: Final = re.compile(r"[^a-z0-9]+")
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
    if request.version < HttpVersion11 or any(_is_of_a_proxy(name.lower()) for name in request.headers):
        raise Refusal(FORWARDED_REQUEST)
    if _is_cross_site(request, hosts[0]):
        raise Refusal(CROSS_SITE)


def _is_of_a_proxy(name: str) -> bool:
    of_a_client = name == _HOST or name.startswith("sec-")  # a browser's own: Sec-CH-Prefers-Color-Scheme
    return not of_a_client and not OF_A_PROXY.isdisjoint(_WORDS.split(name))


def _is_cross_site(request: web.Request, host: str) -> bool:
    sites = request.headers.getall("Sec-Fetch-Site", ())
    origins = request.headers.getall(hdrs.ORIGIN, ())
    own = f"http://{host}".lower()
    return any(site.lower() not in OWN_SITES for site in sites) or any(origin.lower() != own for origin in origins)


def _is_own(host: str) -> bool:
    name = _PORT.sub("", host.lower())
    return "%" not in name and is_loopback_host(name)
