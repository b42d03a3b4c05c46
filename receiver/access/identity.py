"""Authentication and authorization: the one place that decides the tenant and the rights of a request.

The tenant comes only from the key (or from a ticket made with it), never from a body or a header that the caller
chooses. Only a key with `admin` may name another tenant, to read what is that tenant's (`OF_TENANT`). A route's
declaration names the scope it needs (`backstop.runtime.http.routes`). A route without a declaration needs `read` for
GET and HEAD, else `operate`.
"""

import re
from dataclasses import replace
from functools import partial
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from backstop.runtime.authority import AUTHORITY, Authority, on_behalf_of
from backstop.runtime.http.routes import Access, route_of
from backstop.runtime.process.logs import get_logger
from backstop.runtime.shares import Shares
from backstop.runtime.traces import traceparent_in, within_trace
from receiver.access.access_log import AddressOf
from receiver.access.development import refuse_foreign_pages
from receiver.access.keys import Caller, KeyRing
from receiver.access.quotas import Quotas, Rate
from receiver.access.tickets import STREAM_PATH, Tickets, claimed_key_id
from receiver.problems import Problem, Refusal, unavailable
from schemas.base import TENANT_ID_PATTERN
from schemas.traces import TRACEPARENT

log = get_logger("receiver.identity")

CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)

OF_TENANT: Final = "Backstop-Tenant"
"""A header of reads, for keys with `admin`: the tenant whose objects they are about."""

_TENANT: Final = re.compile(TENANT_ID_PATTERN)

PAGE: Final = "/ui"
"""The files of the web page need no key: the page reads its data from `/v1` with the user's key."""

RATE: web.RequestKey[Rate | None] = web.RequestKey("rate", Rate)
"""What is left of the tenant's request rate; None without a limit."""

BUSY_RETRY_S: Final = 2

UNAUTHENTICATED = Problem(
    401, "unauthenticated", "Send a valid key as Authorization: Bearer bsk_...", headers={"WWW-Authenticate": "Bearer"}
)
"""The same for a missing, unknown, wrong, expired or revoked key: the answer must not tell which."""


def caller_of(request: web.Request) -> Caller:
    """The authenticated caller of this request.

    :raises Refusal: 401, there is none.
    """
    caller: Caller | None = request.get(CALLER)
    if caller is None:
        raise Refusal(UNAUTHENTICATED)
    return caller


def tenant_of(request: web.Request) -> str:
    """The tenant of the caller.

    :raises Refusal: see `caller_of`.
    """
    return caller_of(request).tenant


def authentication(
    ring: KeyRing, quotas: Quotas, tickets: Tickets, places: Shares, address_of: AddressOf
) -> Middleware:
    """The middleware. `places` bounds the open requests with a key, shared by tenant and key; webhooks take none."""

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else None
        if path is None:
            return await handler(request)
        needed = access_needed(request)
        if f"{path}/".startswith(f"{PAGE}/") or needed in {"public", "signed"}:
            return await handler(request)
        await ring.follow()
        if ring.development:
            refuse_foreign_pages(request)
        ticket = request.query.get("ticket") if STREAM_PATH.fullmatch(request.rel_url.raw_path) else None
        if ticket is None:
            caller = ring.authenticate(_authorization(request), address_of(request))
        elif hdrs.AUTHORIZATION in request.headers:
            raise Refusal(UNAUTHENTICATED)  # with two credentials, a proxy in front may have validated only the other
        else:
            caller = tickets.redeem(ticket, request.path, address_of(request))
            if caller is None:
                ring.tell_refused(claimed_key_id(ticket), address_of(request), "ticket")
        if caller is None:
            raise Refusal(UNAUTHENTICATED)
        own = request[CALLER] = caller  # before any refusal: the memory of repeats needs the caller of a refused create
        request[RATE] = quotas.check_rate(caller.tenant)
        if needed not in caller.scopes:
            ring.tell_refused(caller.key_id, address_of(request), "scope")
            raise Refusal(Problem(403, "scope_missing", f"This key lacks the scope {needed!r}."))
        request[CALLER] = _as_named(request, caller, path)
        owner = (own.tenant, own.key_id)
        # Long requests check it again, as a key may expire meanwhile. They are streams and waits, which need `read`.
        request[AUTHORITY] = Authority(owner, partial(ring.still_allows, own, "read", address_of(request)))
        if not places.ask_sparing(owner):
            raise unavailable("busy", "This tenant has too many open requests.", BUSY_RETRY_S)
        try:
            with on_behalf_of(owner), within_trace(traceparent_in(request.headers.getall(TRACEPARENT, ()))):
                return await handler(request)
        finally:
            places.give_back(owner)

    return authenticate


def _as_named(request: web.Request, caller: Caller, route: str) -> Caller:
    """The caller, in the place of the tenant that the request names. Limits and shares stay those of its own tenant.

    :raises Refusal: it may not read as that tenant, or the request changes something.
    """
    named = request.headers.getall(OF_TENANT, ())
    if not named or named == [caller.tenant]:
        return caller
    if "admin" not in caller.scopes:
        raise Refusal(Problem(403, "scope_missing", f"{OF_TENANT} needs a key with the scope 'admin'."))
    if request.method not in {hdrs.METH_GET, hdrs.METH_HEAD}:
        raise Refusal(Problem(403, "scope_missing", f"With {OF_TENANT} a key only reads; nothing was changed."))
    if len(named) > 1 or not _TENANT.fullmatch(named[0]):
        raise Refusal(Problem(400, "bad_parameter", f"{OF_TENANT} must name one tenant: a-z 0-9 _ -, 64 at most."))
    log.info("read_for_tenant", tenant=named[0], key_id=caller.key_id, route=route)
    return replace(caller, tenant=named[0])


def access_needed(request: web.Request) -> Access:
    """The scope (or other access) that the route of this request needs."""
    route = route_of(request)
    if route is not None:
        return route.access
    return "read" if request.method in {hdrs.METH_GET, hdrs.METH_HEAD} else "operate"


def _authorization(request: web.Request) -> str | None:
    """The `Authorization` header if there is exactly one. With two, a proxy in front may have validated the other."""
    values = request.headers.getall(hdrs.AUTHORIZATION, ())
    return values[0] if len(values) == 1 else None
