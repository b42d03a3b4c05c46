"""The URLs and addresses that a webhook may reach: each known trick to redirect it is refused."""

from contextlib import nullcontext
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstop.outgoing.shared_settings import WebhookSettings
from backstop.runtime.addresses import EgressRules, is_loopback_host, parse_networks
from backstop.runtime.errors import ConfigurationError

RULES = EgressRules(frozenset({443, 8443}))
DEVELOPMENT = replace(RULES, loopback=True)
INNER = replace(RULES, inner=parse_networks(["10.1.0.0/16", "fd12::/32"]), refused=parse_networks(["10.1.9.0/24"]))


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/x", "https://hooks.example.com", "https://hooks.example.com:8443/a/b?c=d&e=%20",
        "https://xn--bcher-kva.example/", "https://a-b.c3.example.com/~x;y=1", "https://hooks.example.com?x=1",
    ],
)  # fmt: skip
def test_a_plain_https_url_is_taken(url: str) -> None:
    RULES.check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/", "ftp://hooks.example.com/", "https:hooks.example.com", "//hooks.example.com/", "",
        "HTTPS://hooks.example.com/", "https://Hooks.example.com/", "javascript:alert(1)", "file:///etc/passwd",
        # user information, and what looks like a host and is none
        "https://user@hooks.example.com/", "https://user:pw@hooks.example.com/", "https://hooks.example.com@10.0.0.1/",
        "https://hooks.example.com\\@10.0.0.1/", "https://hooks.example.com#@10.0.0.1/",
        "https://10.0.0.1#.example.com/",
        # IPv4 in each spelling that some parser takes
        "https://127.0.0.1/", "https://8.8.8.8/", "https://2130706433/", "https://017700000001/", "https://0x7f000001/",
        "https://0x7f.0.0.1/", "https://0177.0.0.1/", "https://127.1/", "https://127.0.1/", "https://0/",
        "https://1.2.3.4./", "https://0x/", "https://a.0x10/", "https://hooks.example.1/", "https://127.0.0.1.:443/",
        # IPv6, and IPv4 within it
        "https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://[2606:4700::1]/", "https://[fe80::1%25eth0]/",
        "https://[::]/", "https://[64:ff9b::7f00:1]/", "https://[v1.x]/",
        # names of this machine and of this network
        "https://localhost/", "https://localhost./", "https://a.localhost/", "https://printer.local/",
        "https://db.internal/",
        "https://metadata.google.internal/", "https://intranet/", "https://router.lan/", "https://x.home.arpa/",
        # not the one plain form
        "https://hooks.example.com./", "https://hooks..example.com/", "https://-a.example.com/",
        "https://a-.example.com/",
        "https://a_b.example.com/", "https://bücher.example/", "https://１２７.0.0.1/", "https://ⓛocalhost/",
        "https://hooks.example.com/ x", "https://hooks.example.com/\r\nx: y", "https://hooks.example.com/\tx",
        " https://hooks.example.com/", "https://hooks.example.com/\n", "https://hooks.example.com/é",
        "https://%6c.example.com/",
        f"https://{'a' * 64}.example.com/", f"https://{'a.' * 130}com/", f"https://hooks.example.com/{'x' * 2_000}",
        # ports
        "https://hooks.example.com:22/", "https://hooks.example.com:80/", "https://hooks.example.com:0/",
        "https://hooks.example.com:99999/", "https://hooks.example.com:/", "https://hooks.example.com:443:443/",
        "https://hooks.example.com:+443/", "https://hooks.example.com: 443/",
    ],
)  # fmt: skip
def test_every_other_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^[a-z]") as refused:
        RULES.check_url(url)
    assert "10.0.0.1" not in str(refused.value), "nothing of the URL is said"


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1",
        "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "3fff::1",
        "fec0::1", "2001::1", "2002:7f00:1::", "2002:808:808::", "100::1", "5f00::1", "64:ff9b:1::808:808",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:7f00:1",
        "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe",
        "", "webhooks.example.com", "2130706433", "0177.0.0.1", "0x7f.0.0.1", "127.1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert RULES.refuses(address)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "93.184.216.34",
        "2606:4700::1111",
        "2a00:1450:4001::1",
        "64:ff9b::808:808",
        "::ffff:8.8.8.8",
    ],
)
def test_a_public_address_is_not_refused(address: str) -> None:
    assert not RULES.refuses(address)


@given(st.ip_addresses(v=4))
def test_what_python_calls_private_is_refused_in_every_wrapping(address: IPv4Address) -> None:
    if (
        address.is_private
        or address.is_multicast
        or address.is_reserved
        or address.is_loopback
        or address.is_link_local
    ):
        number = int(address)
        wrapped = (address, IPv6Address(0xFFFF << 32 | number), IPv6Address((0x64FF9B << 96) | number))
        assert all(RULES.refuses(str(one)) for one in wrapped)
    assert RULES.refuses(str(IPv6Address((0x2002 << 112) | (int(address) << 80))))


@given(st.ip_addresses(v=6))
def test_what_python_calls_private_is_refused_of_ipv6_too(address: IPv6Address) -> None:
    if address.is_private and address.ipv4_mapped is None:
        assert RULES.refuses(str(address))


def test_networks_of_ones_own_are_refused_besides() -> None:
    rules = replace(RULES, refused=parse_networks(["8.8.8.0/24", "2606:4700::/32"]))
    assert rules.refuses("8.8.8.8")
    assert rules.refuses("::ffff:8.8.8.8")
    assert rules.refuses("2606:4700::1111")
    assert not rules.refuses("1.1.1.1")


def test_in_development_this_machine_is_allowed_and_nothing_else_is() -> None:
    for url in ("http://127.0.0.1:9999/x", "http://localhost:8000/", "https://[::1]:1/", "http://127.3.2.1/"):
        DEVELOPMENT.check_url(url)
    assert not DEVELOPMENT.refuses("127.0.0.1")
    assert not DEVELOPMENT.refuses("::1")
    assert DEVELOPMENT.refuses("10.0.0.1")
    for url in ("http://hooks.example.com/", "http://10.0.0.1/", "http://localhost./", "http://2130706433/"):
        with pytest.raises(ValueError, match=r"^the "):
            DEVELOPMENT.check_url(url)


@pytest.mark.parametrize("servers", ["kafka-1:9092", "127.0.0.1:9092,kafka-2:9092", "10.0.0.1:9092"])
def test_development_needs_a_broker_on_this_machine(servers: str) -> None:
    settings = WebhookSettings(kafka_bootstrap_servers=servers, clear_text=True, outgoing_loopback=True)
    with pytest.raises(ConfigurationError, match="BACKSTOP_OUTGOING_LOOPBACK"):
        settings.egress_rules()
    assert not WebhookSettings(kafka_bootstrap_servers=servers, clear_text=True).egress_rules().loopback


def test_settings_become_rules() -> None:
    settings = WebhookSettings(
        kafka_bootstrap_servers="localhost:1,[::1]:2", outgoing_loopback=True,
        outgoing_ports="443, 9443", outgoing_refused_networks="8.8.8.0/24",
    )  # as the environment gives them  # fmt: skip
    assert settings.egress_rules() == EgressRules(frozenset({443, 9443}), True, parse_networks(["8.8.8.0/24"]))
    for wrong in ({"outgoing_ports": "0"}, {"outgoing_ports": ""}, {"outgoing_refused_networks": "8.8.8.8/24"}):
        with pytest.raises(ValueError, match=r"outgoing_"):
            WebhookSettings(**wrong)  # type: ignore[arg-type]


def test_loopback_hosts_are_known() -> None:
    assert all(map(is_loopback_host, ("localhost", "127.0.0.1", "::1")))
    assert not any(map(is_loopback_host, ("", "example.com", "10.0.0.1", "0.0.0.0")))


def test_inner_services_are_reached_by_inner_names_in_the_networks_of_the_operator_alone() -> None:
    for url in (
        "http://billing.internal/x",
        "https://billing/",
        "http://a.svc.cluster.local:443/x",
        "http://nas.lan:443/",
    ):
        with pytest.raises(ValueError, match="the port") if url == "http://billing.internal/x" else nullcontext():
            INNER.check_url(url)
        with pytest.raises(ValueError, match=r"^the "):
            RULES.check_url(url)
    for address in ("10.1.2.3", "fd12::7", "::ffff:10.1.2.3"):
        assert not INNER.refuses(address)
        assert not INNER.refuses_for("billing.internal", address)
    for address in ("10.2.0.1", "10.1.9.4", "127.0.0.1", "169.254.169.254", "fd13::1", "8.8.8.8", "not an address"):
        assert INNER.refuses_for("billing.internal", address)


def test_a_public_name_is_as_before_where_inner_networks_are_allowed() -> None:
    for url in ("http://hooks.example.com/", "https://10.1.2.3/", "https://x.onion/", "http://localhost:443/",
                "https://a.localhost/", "http://2130706433:443/", "https://[fd12::7]/"):  # fmt: skip
        with pytest.raises(ValueError, match=r"^the "):
            INNER.check_url(url)
    assert not INNER.refuses_for("hooks.example.com", "8.8.8.8")
    assert INNER.refuses_for("hooks.example.com", "10.2.0.1")


@pytest.mark.parametrize(
    "network",
    ["0.0.0.0/0", "127.0.0.1/32", "169.254.169.254/32", "168.63.128.0/20", "::/0", "::1/128", "fe80::/64",
     "fd00:ec2::254/128", "fd00::/8", "::ffff:10.0.0.0/104"],
)  # fmt: skip
def test_this_machine_and_metadata_services_can_not_be_allowed(network: str) -> None:
    with pytest.raises(ValueError, match="name smaller networks"):
        WebhookSettings(outgoing_allowed_networks=network)


@given(st.ip_addresses())
def test_no_address_outside_of_the_networks_is_reached_because_they_are_allowed(
    address: IPv4Address | IPv6Address,
) -> None:
    within = any(address in network for network in INNER.inner if network.version == address.version)
    wraps = isinstance(address, IPv6Address) and (address.ipv4_mapped is not None or str(address).startswith("64:ff9b"))
    if not within and not wraps:
        assert INNER.refuses(str(address)) == replace(INNER, inner=()).refuses(str(address))
