"""Settings of outgoing webhooks shared by the receiver (which registers endpoints) and the sender."""

from pydantic import Field, SecretStr, field_validator

from backstop.runtime.addresses import EgressRules, parse_networks, refuse_never_inner
from backstop.runtime.clear_text import is_here
from backstop.runtime.comma_lists import CommaList, Networks
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.settings import RuntimeSettings


class WebhookSettings(RuntimeSettings):
    """Environment: `BACKSTOP_<NAME>`."""

    outgoing_keys: CommaList[SecretStr] = Field(
        default=(),
        description="Keys from which the signing secrets of outgoing webhooks are derived, comma-separated; the first "
        "makes new secrets. Without a key there are no outgoing webhooks.",
    )
    outgoing_ports: CommaList[int] = Field(
        default=(443, 8443), description="Ports that a webhook endpoint may have, comma-separated."
    )
    outgoing_refused_networks: Networks = Field(
        default=(),
        description="Networks (CIDR, comma-separated) that no webhook may reach, besides all non-public ones.",
    )
    outgoing_allowed_networks: Networks = Field(
        default=(),
        description="Inner networks (CIDR, comma-separated) that webhooks may reach, for all tenants: by names without "
        "a dot or below .internal, .local, .lan, .home.arpa, with https or http, on BACKSTOP_OUTGOING_PORTS.",
    )
    outgoing_loopback: bool = Field(
        default=False,
        description="Development only: endpoints may be on this machine, with http. Refused unless the broker is too.",
    )

    @field_validator("outgoing_ports")
    @classmethod
    def _are_ports(cls, ports: tuple[int, ...]) -> tuple[int, ...]:
        if not ports or not all(1 <= port <= 65_535 for port in ports):
            raise ValueError("one or more ports from 1 to 65535")
        return ports

    @field_validator("outgoing_allowed_networks")
    @classmethod
    def _may_be_allowed(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        refuse_never_inner(parse_networks(networks))
        return networks

    def egress_rules(self) -> EgressRules:
        """:raises ConfigurationError: loopback is allowed, but the broker is not on this machine."""
        if self.outgoing_loopback and not is_here(self.kafka_bootstrap_servers):
            raise ConfigurationError(
                "BACKSTOP_OUTGOING_LOOPBACK is for development: with a broker that is not on this machine, tenants "
                "could reach services of this machine; unset it"
            )
        return EgressRules(
            frozenset(self.outgoing_ports),
            self.outgoing_loopback,
            parse_networks(self.outgoing_refused_networks),
            parse_networks(self.outgoing_allowed_networks),
        )
