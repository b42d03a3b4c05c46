"""Where a request came from: the peer's address, or, behind proxies that are known, what they say of it. Pure."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from backstop.runtime.addresses import Network

HOPS_MAX = 32


def client_address(peer: str | None, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> str:
    """The last address that no trusted proxy has; empty where nobody knows.

    Each proxy adds at the end whom it heard. What stands before the first address that is not trusted, a client may have written itself.
    """
    hops = [hop.strip() for value in forwarded_for for hop in value.split(",")][-HOPS_MAX:]
    at = _parsed(peer or "")
    while at is not None and hops and within(at, trusted):
        before = _parsed(hops.pop())
        if before is None:
            return ""  # a trusted proxy wrote what is no address: then nobody knows
        at = before
    return "" if at is None else str(at)


def within(address: IPv4Address | IPv6Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def allowed(address: str, networks: Sequence[Network]) -> bool:
    """Whether a key that may be used from these networks only may be used from there; without any, from everywhere."""
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
