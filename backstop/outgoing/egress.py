"""The only way out: names are resolved and addresses checked here, and connections go to checked addresses.

- The resolver refuses a name if any of its addresses is refused: public and private addresses under one name suggest an
  attack.
- The resolver returns addresses, and the connection goes to those. The name is not resolved again, so changing its
  answer between check and connection gains nothing. TLS still verifies the name.
- The address is checked again when the socket is made, which covers connections that bypass the resolver.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from backstop.runtime.addresses import EgressRules

Lookup = Callable[[str, int], Awaitable[list[tuple[int, str]]]]
"""Name and port → (address family, address) of each answer. :raises OSError: the name can't be resolved."""

ADDRESSES_MAX = 16
"""Addresses of a name that are tried, in turn."""


class AddressRefusedError(OSError):
    """The name or address is one that no webhook may reach."""


class SystemLookup:
    """The system's resolver, in its own threads: a hanging lookup delays nothing else in the process."""

    def __init__(self, threads_max: int) -> None:
        self._threads = ThreadPoolExecutor(threads_max, thread_name_prefix="webhook-dns")

    async def __call__(self, host: str, port: int) -> list[tuple[int, str]]:
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _getaddrinfo, host, port)
        return [(family, str(address[0])) for family, _, _, _, address in found]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class CheckedResolver(AbstractResolver):
    """The resolver of aiohttp's connector."""

    def __init__(self, rules: EgressRules, lookup: Lookup) -> None:
        self._rules = rules
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """:raises AddressRefusedError: one of the name's addresses is refused.

        :raises OSError: the name has no address.
        """
        found = [(kind, address) for kind, address in await self._lookup(host, port) if family in (0, kind)]
        if not found:
            raise OSError("the name has no address")
        if any(self._rules.refuses_for(host, address) for _, address in found):
            raise AddressRefusedError("the name resolves to a refused address")
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=kind, proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, address in dict.fromkeys(found[:ADDRESSES_MAX])
        ]  # fmt: skip

    async def close(self) -> None:
        """Holds nothing to close."""


def checked_socket(rules: EgressRules) -> Callable[[Any], socket.socket]:
    """The socket factory of aiohttp's connector. :raises AddressRefusedError: the address is refused."""

    def make(info: Any) -> socket.socket:
        family, kind, proto, _, address = info
        if rules.refuses(str(address[0])):
            raise AddressRefusedError("the address is refused")
        return socket.socket(family, kind, proto)

    return make


def _getaddrinfo(host: str, port: int) -> list[Any]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG))
