"""On whose behalf a request is served, for whatever serves it: who shares bounded things, and whether the key is still valid."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from backstop.runtime.shares import Owner


@dataclass(frozen=True, slots=True)
class Authority:
    """`still` says whether the key would still be let in; a stream asks again and again."""

    owner: Owner
    """Tenant and key."""
    still: Callable[[], bool]


NOBODYS: Final = Authority(("", ""), lambda: True)
"""Of what needs no key, and of our own work."""

_OWNER: ContextVar[Owner] = ContextVar("owner", default=NOBODYS.owner)

AUTHORITY: web.RequestKey[Authority] = web.RequestKey("authority", Authority)


def authority_of(request: web.Request) -> Authority:
    found: Authority = request.get(AUTHORITY, NOBODYS)
    return found


def owner_now() -> Owner:
    """Whose request is being served by the code that asks; for what lies too deep for the request to be handed down to it."""
    return _OWNER.get()


@contextmanager
def on_behalf_of(owner: Owner) -> Iterator[None]:
    token = _OWNER.set(owner)
    try:
        yield
    finally:
        _OWNER.reset(token)


def key_id_now() -> str | None:
    """The key with which what is being done now was asked for; None in development, and for what came by another way."""
    return _OWNER.get()[-1] or None
