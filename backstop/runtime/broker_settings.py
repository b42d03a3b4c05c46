"""Settings of the way to the Kafka brokers: addresses, TLS, authentication. See docs/kafka.md."""

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings

from backstop.runtime.clear_text import check_brokers, check_token_url
from backstop.runtime.comma_lists import CommaList

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM"]
_BY_PASSWORD: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class BrokerSettings(BaseSettings):
    """How a process connects to the brokers."""

    kafka_bootstrap_servers: str = Field(
        default="localhost:9092",
        validation_alias=AliasChoices(
            "KAFKA_BOOTSTRAP_SERVERS", "BACKSTOP_KAFKA_BOOTSTRAP_SERVERS", "kafka_bootstrap_servers"
        ),
        description="Comma-separated host:port list of brokers.",
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="Protocol to the brokers; SASL_SSL in production."
    )
    kafka_sasl_mechanism: Mechanism = Field(
        default="SCRAM-SHA-512", description="SASL mechanism, if the protocol uses SASL."
    )
    kafka_sasl_username: str | None = Field(default=None, description="SASL user name, of PLAIN and SCRAM.")
    kafka_sasl_password: SecretStr | None = Field(default=None, description="SASL password, of PLAIN and SCRAM.")
    kafka_ssl_cafile: Path | None = Field(default=None, description="CA bundle for TLS; the system's store if unset.")
    kafka_ssl_certfile: Path | None = Field(
        default=None, description="Certificate of this client (PEM, with its chain), where the brokers ask for one."
    )
    kafka_ssl_keyfile: Path | None = Field(
        default=None, description="Private key of that certificate (PEM); in the certificate's file if unset."
    )
    kafka_ssl_key_password: SecretStr | None = Field(default=None, description="Password of the private key.")
    kafka_oauth_token_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/\s]+(/\S*)?$",
        description="Token endpoint of the identity provider, for OAUTHBEARER (client credentials).",
    )
    kafka_oauth_client_id: str | None = Field(default=None, description="Client id at the token endpoint.")
    kafka_oauth_client_secret: SecretStr | None = Field(default=None, description="Secret of that client.")
    kafka_oauth_scope: str | None = Field(default=None, description="Scope that the token is asked for.")
    kafka_oauth_extensions: CommaList[str] = Field(
        default=(),
        description="SASL extensions of OAUTHBEARER, NAME=VALUE, comma-separated; Confluent Cloud wants logicalCluster "
        "and identityPoolId.",
    )
    kafka_aws_region: str | None = Field(
        default=None, pattern=r"^[a-z0-9-]{1,40}$", description="Region of the MSK cluster, for AWS_MSK_IAM."
    )
    clear_text: bool = Field(
        default=False,
        description="Allow clear text beyond this machine: to the brokers, their token endpoint (http://), the "
        "provider (http://), the blob store (http://) and PostgreSQL (no sslmode).",
    )

    @property
    def kafka_uses_tls(self) -> bool:
        return self.kafka_security_protocol.endswith("SSL")

    @property
    def kafka_uses_sasl(self) -> bool:
        return self.kafka_security_protocol.startswith("SASL")

    @model_validator(mode="after")
    def _brokers_in_clear_text(self) -> Self:
        if not self.clear_text:
            check_brokers(self.kafka_bootstrap_servers, self.kafka_security_protocol)
            if self.kafka_oauth_token_url is not None:
                check_token_url(self.kafka_oauth_token_url)
        return self

    @model_validator(mode="after")
    def _all_that_the_mechanism_needs(self) -> Self:
        if self.kafka_uses_sasl:
            missing = [name for name in self._needed() if not getattr(self, name)]
            if missing:
                names = " and ".join(f"BACKSTOP_{name.upper()}" for name in missing)
                raise ValueError(f"BACKSTOP_KAFKA_SASL_MECHANISM={self.kafka_sasl_mechanism} needs {names}")
        for extension in self.kafka_oauth_extensions:
            if not all(extension.partition("=")):
                raise ValueError(f"BACKSTOP_KAFKA_OAUTH_EXTENSIONS: {extension!r} is not NAME=VALUE")
        if self.kafka_ssl_keyfile is not None and self.kafka_ssl_certfile is None:
            raise ValueError("BACKSTOP_KAFKA_SSL_KEYFILE is the key of BACKSTOP_KAFKA_SSL_CERTFILE: set that, too")
        if self.kafka_ssl_certfile is not None and not self.kafka_uses_tls:
            raise ValueError(
                f"BACKSTOP_KAFKA_SSL_CERTFILE has no effect with {self.kafka_security_protocol}: set "
                "BACKSTOP_KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL"
            )
        return self

    def _needed(self) -> tuple[str, ...]:
        if self.kafka_sasl_mechanism in _BY_PASSWORD:
            return ("kafka_sasl_username", "kafka_sasl_password")
        if self.kafka_sasl_mechanism == "AWS_MSK_IAM":
            return ("kafka_aws_region",)
        return ("kafka_oauth_token_url", "kafka_oauth_client_id", "kafka_oauth_client_secret")
