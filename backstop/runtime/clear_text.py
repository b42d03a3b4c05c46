"""Where clear text may go: only to this machine, because a network's participants could read and change it. Pure."""

from typing import Final
from urllib.parse import parse_qs, urlsplit

from backstop.runtime.addresses import is_loopback_host

UNLESS: Final = "or set BACKSTOP_CLEAR_TEXT=true where the network between is trusted"
_VERIFIED_BY_POSTGRES: Final = frozenset({"require", "verify-ca", "verify-full"})


def is_here(bootstrap_servers: str) -> bool:
    """Whether all these brokers are on this machine, as in development."""
    hosts = [server.strip().rpartition(":")[0].strip("[]") for server in bootstrap_servers.split(",")]
    return all(map(is_loopback_host, hosts))


def check_brokers(bootstrap_servers: str, security_protocol: str) -> None:
    """:raises ValueError: clear text would leave this machine; the message says what to change."""
    if not security_protocol.endswith("SSL") and not is_here(bootstrap_servers):
        raise ValueError(
            f"BACKSTOP_KAFKA_SECURITY_PROTOCOL={security_protocol} is clear text, and KAFKA_BOOTSTRAP_SERVERS is not "
            f"on this machine: use SASL_SSL or SSL, {UNLESS}"
        )


def check_base_url(url: str) -> None:
    """:raises ValueError: as `check_brokers`."""
    _check_http(url, "BACKSTOP_OPENAI_BASE_URL is http:// beyond this machine, and the API key would go there")


def check_token_url(url: str) -> None:
    """:raises ValueError: as `check_brokers`."""
    _check_http(
        url, "BACKSTOP_KAFKA_OAUTH_TOKEN_URL is http:// beyond this machine, and the client's secret would go there"
    )


def check_bucket(endpoint: str) -> None:
    """:raises ValueError: as `check_brokers`."""
    _check_http(
        endpoint, "BACKSTOP_BLOBS_ENDPOINT is http:// beyond this machine, and requests and results would go there"
    )


def _check_http(url: str, risk: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not is_loopback_host(parts.hostname or ""):
        raise ValueError(f"{risk}: use https://, {UNLESS}")


def check_database(url: str) -> None:
    """:raises ValueError: as `check_brokers`."""
    parts = urlsplit(url)
    if parts.scheme not in {"postgresql", "postgres"}:
        return
    options = parse_qs(parts.query)
    hosts = [host for value in options.get("host", [parts.hostname or ""]) for host in value.split(",")]
    here = all(not host or host.startswith("/") or is_loopback_host(host) for host in hosts)  # none, or a socket
    if not here and options.get("sslmode", [""])[-1] not in _VERIFIED_BY_POSTGRES:
        raise ValueError(
            "BACKSTOP_DATABASE_URL may be clear text beyond this machine: add sslmode=verify-full (or require) to it, "
            f"{UNLESS}"
        )
