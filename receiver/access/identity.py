"""Who is speaking, and whether they may: the one place that decides the tenant and the rights of a request.

The tenant comes from the key alone (or from a ticket that was made with it), never from a body or from a header that a caller
may choose. What a route needs stands in its declaration (`backstop.runtime.http.routes`); one without needs `read` to read and `operate`
to change anything.
"""

from functools import partial
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from backstop.runtime.authority import AUTHORITY, Authority, on_behalf_of
from backstop.runtime.http.routes import Access, route_of
from backstop.runtime.shares import Shares
from receiver.access.access_log import AddressOf
from receiver.access.development import refuse_foreign_pages
from receiver.access.keys import Caller, KeyRing
from receiver.access.quotas import Quotas, Rate
from receiver.access.tickets import STREAM_PATH, Tickets
from receiver.problems import Problem, Refusal, unavailable

CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)

PAGE: Final = "/ui"
"""The page itself holds no data: what it shows it reads from `/v1` with the key of whoever looks at it."""

RATE: web.RequestKey[Rate | None] = web.RequestKey("rate", Rate)
"""What is left of the tenant's rate, where it has one."""

BUSY_RETRY_S: Final = 2

UNAUTHENTICATED = Problem(
    401, "unauthenticated", "Send a valid key as Authorization: Bearer bsk_...", headers={"WWW-Authenticate": "Bearer"}
)
"""The same for a missing, unknown, wrong, expired and revoked key: which it was is nobody's business."""


def caller_of(request: web.Request) -> Caller:
    """Who sent this request.

    :raises Refusal: nobody was authenticated for it.
    """
    caller: Caller | None = request.get(CALLER)
    if caller is None:
        raise Refusal(UNAUTHENTICATED)
    return caller


def tenant_of(request: web.Request) -> str:
    """The tenant, never from the body or from a header that a caller may choose.

    :raises Refusal: see `caller_of`.
    """
    return caller_of(request).tenant


def authentication(
    ring: KeyRing, quotas: Quotas, tickets: Tickets, places: Shares, address_of: AddressOf
) -> Middleware:
    """`places` are those of requests with a key. Webhooks take none of them."""

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else None
        if path is None:
            return await handler(request)
        needed = access_needed(request)
        if f"{path}/".startswith(f"{PAGE}/") or needed in {"public", "signed"}:
            return await handler(request)
        if ring.development:
            refuse_foreign_pages(request)
        ticket = request.query.get("ticket") if STREAM_PATH.fullmatch(request.rel_url.raw_path) else None
        if ticket is None:
            caller = ring.authenticate(_authorization(request), address_of(request))
        elif hdrs.AUTHORIZATION in request.headers:
            raise Refusal(UNAUTHENTICATED)  # of two, who knows which was checked by whoever stands before us
        else:
            caller = tickets.redeem(ticket, request.path, address_of(request))
        if caller is None:
            raise Refusal(UNAUTHENTICATED)
        request[CALLER] = caller  # before any refusal: whoever counts refusals asks whose they are
        request[RATE] = quotas.check_rate(caller.tenant)
        if needed not in caller.scopes:
            raise Refusal(Problem(403, "scope_missing", f"This key lacks the scope {needed!r}, which this needs."))
        owner = (caller.tenant, caller.key_id)
        # What goes on for so long that a key may end meanwhile is a stream, and whoever follows one reads.
        request[AUTHORITY] = Authority(owner, partial(ring.still_allows, caller, "read"))
        if not places.ask_sparing(owner):
            raise unavailable("busy", "Too many requests of this tenant are open at one time.", BUSY_RETRY_S)
        try:
            with on_behalf_of(owner):
                return await handler(request)
        finally:
            places.give_back(owner)

    return authenticate


def access_needed(request: web.Request) -> Access:
    """Of the route that takes it."""
    route = route_of(request)
    if route is not None:
        return route.access
    return "read" if request.method in {hdrs.METH_GET, hdrs.METH_HEAD} else "operate"


def _authorization(request: web.Request) -> str | None:
    """The one header; of two, who knows which was checked by whoever stands before us."""
    values = request.headers.getall(hdrs.AUTHORIZATION, ())
    return values[0] if len(values) == 1 else None
