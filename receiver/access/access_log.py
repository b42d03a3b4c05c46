"""Structured log lines about callers: changes, refused keys, and (with `BACKSTOP_ACCESS_LOG`) each request.

The facts of a submission and of a job's cancel also name the key (`asked_by`), for as long as the topics keep them.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final, Literal

from aiohttp import web

from backstop.runtime.authority import AUTHORITY, authority_of
from backstop.runtime.http.routes import route_of
from backstop.runtime.process.clock import monotonic_s
from backstop.runtime.process.logs import get_logger

REFUSED_EVERY_S: Final = 60.0
"""Interval at which the refusals of one key from one address are logged, with their count."""
REFUSED_KNOWN_MAX: Final = 1_000
REFUSED_PER_S_MAX: Final = 10
"""Lines per second over all keys: a client that tries random keys or addresses must not fill the disk."""
OF_ADDRESS_PER_S_MAX: Final = 3
"""Of them for one address: its flood must not hide the refusals of others."""

AddressOf = Callable[[web.Request], str]
Why = Literal["no_key", "malformed", "unknown_key", "wrong_secret", "expired", "revoked", "address", "ticket", "scope"]

READING: Final = frozenset({"GET", "HEAD"})
IN_FACTS: Final = frozenset({"submitJob", "createResponse"})
"""Routes whose facts name the key, and which are called too often for a log line each."""

log = get_logger("receiver.access.access_log")


class RefusedKeys:
    """Logs refused keys, rate-limited."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], list[float]] = OrderedDict()
        """By key and address: `[monotonic seconds of the last line, refusals since]`."""
        self._second = 0
        self._told: Counter[str] = Counter()
        """Lines in this second, by address."""

    def tell(self, key_id: str, address: str, why: Why) -> None:
        """Count one refusal, and log it if it is due. `key_id` as the client claims it, empty without one."""
        now_s = monotonic_s()
        entry = self._seen.setdefault((key_id, address), [now_s - REFUSED_EVERY_S, 0])
        self._seen.move_to_end((key_id, address))
        if len(self._seen) > REFUSED_KNOWN_MAX:
            self._seen.popitem(last=False)
        entry[1] += 1
        if now_s - entry[0] < REFUSED_EVERY_S or not self._may(int(now_s), address):
            return
        log.warning("authentication_refused", key_id=key_id, address=address, reason=why, count=int(entry[1]))
        entry[:] = [now_s, 0]

    def _may(self, second: int, address: str) -> bool:
        if second != self._second:
            self._second = second
            self._told.clear()
        if self._told[address] >= OF_ADDRESS_PER_S_MAX or self._told.total() >= REFUSED_PER_S_MAX:
            return False
        self._told[address] += 1
        return True


def tell_change(request: web.Request, status: int, address_of: AddressOf) -> None:
    """Log which key changed what. Reads, webhooks and submissions are not logged."""
    route = route_of(request)
    if AUTHORITY not in request or route is None or route.name in IN_FACTS or request.method in READING:
        return
    tenant, key_id = authority_of(request).owner
    log.info(
        "changed",
        action=route.name,
        tenant=tenant,
        key_id=key_id,
        address=address_of(request),
        status=status,
        **request.match_info,
    )


def tell_access(request: web.Request, route: str, status: int, duration_s: float, address_of: AddressOf) -> None:
    """Log one request. The route, not the URL: a path holds ids of a tenant, a query may hold a ticket."""
    tenant, key_id = authority_of(request).owner
    log.info(
        "request", method=request.method, route=route, status=status, duration_s=round(duration_s, 6), tenant=tenant,
        key_id=key_id, address=address_of(request),
    )  # fmt: skip
