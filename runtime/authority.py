"""On whose behalf a request is served, for whatever serves it: who shares bounded things, and whether the key is still valid."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from runtime.shares import Owner


@dataclass(frozen=True, slots=True)
class Authority:
    """`still` says whether the key would still be let in; a stream asks again and again."""

    owner: Owner
    """Tenant and key."""
    still: Callable[[], bool]


NOBODYS: Final = Authority(("", ""), lambda: True)
"""Of what needs no key, and of our own work."""

AUTHORITY: web.RequestKey[Authority] = web.RequestKey("authority", Authority)


def authority_of(request: web.Request) -> Authority:
    found: Authority = request.get(AUTHORITY, NOBODYS)
    return found
