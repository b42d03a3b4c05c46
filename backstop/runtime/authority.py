"""The tenant and key on whose behalf a request is served: they share bounded resources, and the key may be revoked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from backstop.runtime.shares import Owner


@dataclass(frozen=True, slots=True)
class Authority:
    """`still`: whether the key would be accepted now; a stream calls it again and again."""

    owner: Owner
    """Tenant and key."""
    still: Callable[[], bool]


NOBODYS: Final = Authority(("", ""), lambda: True)
"""For requests without a key, and for Backstop's own work."""

_OWNER: ContextVar[Owner] = ContextVar("owner", default=NOBODYS.owner)

AUTHORITY: web.RequestKey[Authority] = web.RequestKey("authority", Authority)


def authority_of(request: web.Request) -> Authority:
    found: Authority = request.get(AUTHORITY, NOBODYS)
    return found


def owner_now() -> Owner:
    """The owner of the request that the calling code serves, for code too deep to be handed the request."""
    return _OWNER.get()


@contextmanager
def on_behalf_of(owner: Owner) -> Iterator[None]:
    token = _OWNER.set(owner)
    try:
        yield
    finally:
        _OWNER.reset(token)


def key_id_now() -> str | None:
    """The id of the key behind the current request; None in development, and for work that came by another way."""
    return _OWNER.get()[-1] or None
