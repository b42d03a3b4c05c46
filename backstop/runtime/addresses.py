"""Rules for requests to tenants' URLs: which URLs are accepted, and which addresses may be connected to. Pure.

A URL is checked by its text, when it is registered and again before each request. An address is checked when it is
connected to, whatever name resolved to it: a name that resolves differently the next time, or to several addresses,
bypasses nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

URL_CHARS_MAX: Final = 2_000
HOST_CHARS_MAX: Final = 253

Network = IPv4Network | IPv6Network

_V4_REFUSED: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # Azure's host services: reachable within a virtual machine only, despite a public address
    )
)  # fmt: skip
"""IANA's registry of special IPv4 addresses, complete; `ipaddress.is_global` varies with the release of Python."""

_V6_GLOBAL: Final = IPv6Network("2000::/3")
_V6_REFUSED: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo and other protocol assignments
        "2001:db8::/32", "3fff::/20",  # documentation
        "2002::/16",  # 6to4: embeds an IPv4 address, and no webhook receiver uses it
        "2620:4f:8000::/48",
    )
)  # fmt: skip
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")

_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.\-]+)(?::(?P<port>[0-9]{1,5}))?(?P<rest>[/?][!-~]*)?"
)
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9\-]{0,61}[a-z0-9])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PRIVATE_SUFFIXES: Final = ("localhost", "local", "internal", "home.arpa", "lan", "onion")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class EgressRules:
    """`ports`: the allowed ports. `loopback`: for development, allows this machine with http and on any port."""

    ports: frozenset[int]
    loopback: bool = False
    refused: tuple[Network, ...] = ()
    """The operator's own networks that are public and must not be reached. They win over `inner`."""
    inner: tuple[Network, ...] = ()
    """The operator's own networks that may be reached, by http as well, through names that are not public."""

    def check_url(self, text: str) -> None:
        """Check whether a request may be sent to this URL.

        Only one plain form is accepted, with every part explicit: forms that two parsers could read differently (user
        information, backslashes, other alphabets, numbers for a host) are refused.

        :raises ValueError: refused; the message says what to change, and holds nothing of the URL.
        """
        if len(text) > URL_CHARS_MAX:
            raise ValueError(f"the URL may have {URL_CHARS_MAX} characters at most")
        found = _URL.fullmatch(text)
        if found is None or "\\" in text or "#" in text:
            raise ValueError(
                "the URL must be https://HOST/PATH in visible ASCII: host in lower case, no user name, no fragment"
            )
        scheme, host = found["scheme"], found["host"]
        port = int(found["port"] or _DEFAULT_PORTS[scheme])
        if not 1 <= port <= 65_535:
            raise ValueError("the port must be from 1 to 65535")
        if self.loopback and is_loopback_host(host):
            return
        inner = bool(self.inner) and is_inner_name(host)
        if scheme != "https" and not inner:
            raise ValueError("the URL must begin with https://")
        if port not in self.ports:
            raise ValueError(f"the port must be one of {', '.join(map(str, sorted(self.ports)))}")
        _check_host(host, inner=inner)

    def refuses_for(self, host: str, address: str) -> bool:
        """Whether a request to this host may not go to this address, to which its name resolved.

        A name that is not public must lead into an `inner` network: http may have been used for it.
        """
        found = _read(address)
        if found is None or self._refuses(found):
            return True
        inner = bool(self.inner) and is_inner_name(host) and not (self.loopback and is_loopback_host(host))
        return inner and not within(found, self.inner)

    def refuses(self, address: str) -> bool:
        """Whether connecting to this address is forbidden. Text that is not an address is refused too."""
        found = _read(address)
        return found is None or self._refuses(found)

    def _refuses(self, found: IPv4Address | IPv6Address) -> bool:
        if self.loopback and found.is_loopback:
            return False
        if within(found, self.refused):
            return True
        if within(found, self.inner):
            return False
        if isinstance(found, IPv4Address):
            return any(found in network for network in _V4_REFUSED)
        return found not in _V6_GLOBAL or any(found in network for network in _V6_REFUSED)


_NEVER_INNER: Final = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "168.63.129.16/32", "224.0.0.0/4", "240.0.0.0/4",
        "::/127", "fe80::/10", "fd00:ec2::/32", "ff00::/8", "::ffff:0:0/96", "64:ff9b::/96",
    )
)  # fmt: skip
"""This machine, the metadata services of clouds, multicast, and IPv4 within IPv6: no operator's network has them."""


def refuse_never_inner(networks: Sequence[Network]) -> None:
    """:raises ValueError: a network contains addresses that no webhook may reach, whatever the operator allows."""
    for network in networks:
        for never in _NEVER_INNER:
            if network.version == never.version and network.overlaps(never):
                raise ValueError(
                    f"{network} contains addresses of {never} (this machine, metadata services or multicast); name "
                    "smaller networks"
                )


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """:raises ValueError: a text is not a network."""
    return tuple(ip_network(text) for text in texts)


def is_loopback_host(host: str) -> bool:
    """Whether the host is this machine: `localhost` or a loopback address, with or without brackets."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_inner_name(host: str) -> bool:
    """Whether this is a name that only an inner network knows: of one label, or below `.internal`, `.local`, …"""
    return "." not in host or host.endswith(tuple(f".{suffix}" for suffix in _PRIVATE_SUFFIXES if suffix != "onion"))


def _check_host(host: str, *, inner: bool) -> None:
    labels = host.split(".")
    if host.startswith("["):
        raise ValueError("the host must be a name, not an address")
    if len(host) > HOST_CHARS_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("the host is no name: each part has 1 to 63 letters, digits and hyphens; no dot at the end")
    # Some parser reads any host that ends in a number as an IPv4 address: 2130706433, 0x7f.1, 0177.0.0.1, 127.1.
    if _NUMBER.fullmatch(labels[-1]):
        raise ValueError("the host must be a name, not an address")
    if inner:
        if labels[-1] == "localhost":
            raise ValueError("the host must not be this machine")
        return
    if len(labels) < 2 or host.endswith(tuple(f".{suffix}" for suffix in _PRIVATE_SUFFIXES)):
        raise ValueError("the host must be a public name")


def within(address: IPv4Address | IPv6Address, networks: Sequence[Network]) -> bool:
    """Whether one of the networks has the address. IPv4 networks may be written as IPv6: `::ffff:10.0.0.0/104`."""
    return any(address.version == network.version and address in network for network in map(_plain, networks))


def _plain(network: Network) -> Network:
    """The IPv4 network, if all of it is IPv4 within IPv6: addresses in that form are read as IPv4 as well."""
    if isinstance(network, IPv4Network) or network.prefixlen < _MAPPED.prefixlen:
        return network
    first = network.network_address.ipv4_mapped
    return network if first is None else IPv4Network((first, network.prefixlen - _MAPPED.prefixlen))


def _read(address: str) -> IPv4Address | IPv6Address | None:
    """The address that is connected to; None, if the text is not an address."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return _embedded(found) or found


def _embedded(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address within an IPv6 one: the kernel, or a NAT64 gateway, connects to it."""
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
