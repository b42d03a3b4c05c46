"""The only way out: names resolved by us, every address checked, and the connection made to the address that was checked.

- The resolver refuses a name if any of its addresses is refused: a name with a public and a private one is no accident.
- What it returns are addresses, and the connection goes to those. Nobody asks for the name a second time, so a name that changes its
  answer between the check and the connection gains nothing. TLS still verifies the name.
- The address is checked once more where the socket is made, which also sees what never came through the resolver.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from backstop.runtime.addresses import EgressRules

Lookup = Callable[[str, int], Awaitable[list[tuple[int, str]]]]
"""Name and port → (address family, address) of each answer. :raises OSError: there is no answer."""

ADDRESSES_MAX = 16
"""Of one name that are looked at, and connected to in turn."""


class AddressRefusedError(OSError):
    """The name leads to where no webhook may go."""


class SystemLookup:
    """The system's resolver, in threads of its own: one that hangs holds up no other work of the process."""

    def __init__(self, threads_max: int) -> None:
        self._threads = ThreadPoolExecutor(threads_max, thread_name_prefix="webhook-dns")

    async def __call__(self, host: str, port: int) -> list[tuple[int, str]]:
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _getaddrinfo, host, port)
        return [(family, str(address[0])) for family, _, _, _, address in found]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class CheckedResolver(AbstractResolver):
    """For aiohttp's connector."""

    def __init__(self, rules: EgressRules, lookup: Lookup) -> None:
        self._rules = rules
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """:raises AddressRefusedError: one of its addresses may not be connected to.

        :raises OSError: there is no such name.
        """
        found = [(kind, address) for kind, address in await self._lookup(host, port) if family in (0, kind)]
        if not found:
            raise OSError("the name has no address")
        if any(self._rules.refuses(address) for _, address in found):
            raise AddressRefusedError("the name leads to an address that is refused")
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=kind, proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, address in dict.fromkeys(found[:ADDRESSES_MAX])
        ]  # fmt: skip

    async def close(self) -> None:
        """Nothing is kept."""


def checked_socket(rules: EgressRules) -> Callable[[Any], socket.socket]:
    """For aiohttp's connector: makes the socket of an address, if that may be connected to."""

    def make(info: Any) -> socket.socket:
        family, kind, proto, _, address = info
        if rules.refuses(str(address[0])):
            raise AddressRefusedError("the address is refused")
        return socket.socket(family, kind, proto)

    return make


def _getaddrinfo(host: str, port: int) -> list[Any]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG))
