"""The client's address: the peer's, or behind trusted proxies the one that they report. Pure."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from backstop.runtime.addresses import Network, within

HOPS_MAX = 32


def client_address(peer: str | None, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> str:
    """The last address in the chain that is not a trusted proxy; empty if it is unknown.

    Each proxy appends the address of its peer. Entries before the first untrusted address may be forged by the client.
    """
    hops = [hop.strip() for value in forwarded_for for hop in value.split(",")][-HOPS_MAX:]
    at = _parsed(peer or "")
    while at is not None and hops and within(at, trusted):
        before = _parsed(hops.pop())
        if before is None:
            return ""  # a trusted proxy did not write an address: unknown
        at = before
    return "" if at is None else str(at)


def allowed(address: str, networks: Sequence[Network]) -> bool:
    """Whether a key limited to `networks` may be used from `address`. No networks: no limit."""
    if not networks:
        return True
    found = _parsed(address)
    return found is not None and within(found, networks)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    text = text.partition("%")[0]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
