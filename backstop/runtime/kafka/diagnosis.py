"""Why no broker can be used: unreachable, another certificate, a wrong password, another protocol; each in a sentence.

aiokafka logs the cause at each try and raises `Unable to bootstrap` for all of them. So one connection is made here, as
aiokafka makes it, and its own error is told.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from backstop.runtime.broker_settings import Mechanism
from backstop.runtime.errors import BackstopError, BrokerUnavailableError, ConfigurationError
from backstop.runtime.kafka.security import security_options
from backstop.runtime.kafka.tokens import TokenError
from backstop.runtime.settings import RuntimeSettings

ASK_MS: Final = 3_000


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What to tell the operator."""

    sentence: str
    passing: bool
    """Whether time may cure it. A wrong password or certificate needs the operator."""

    def error(self) -> BackstopError:
        """It as an error to raise."""
        return BrokerUnavailableError(self.sentence) if self.passing else ConfigurationError(self.sentence)


async def why_unusable(settings: RuntimeSettings, error: BaseException) -> Diagnosis:
    """As `diagnose`, after `error` of a client; that error where a connection can be made after all."""
    found = await diagnose(settings)
    if found is not None:
        return found
    return Diagnosis(
        f"the broker at {settings.kafka_bootstrap_servers} takes connections, and did not answer ({error!r}): is "
        f"BACKSTOP_KAFKA_SECURITY_PROTOCOL ({settings.kafka_security_protocol}) right for this port?",
        passing=True,
    )


async def diagnose(settings: RuntimeSettings) -> Diagnosis | None:
    """Connect to each broker that the settings name; None if one of them can be used."""
    told: Diagnosis | None = None
    options = {"client_id": "backstop-diagnosis", "request_timeout_ms": ASK_MS, **security_options(settings)}
    for address in settings.kafka_bootstrap_servers.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            async with asyncio.timeout(ASK_MS / 1000):
                connection = await create_conn(host.strip("[]"), int(port), **options)
        except (KafkaError, OSError, TimeoutError, ValueError) as error:
            told = told if told is not None and not told.passing else told_of(error, address.strip(), settings)
        else:
            connection.close()
            return None
    return told


def told_of(error: BaseException, address: str, settings: RuntimeSettings) -> Diagnosis:
    """What the error of a connection means. PURE."""
    match error:
        case UnsupportedSaslMechanismError() | AuthenticationMethodNotSupported():
            sentence = (
                f"the broker at {address} does not offer the SASL mechanism {settings.kafka_sasl_mechanism}: "
                "correct BACKSTOP_KAFKA_SASL_MECHANISM"
            )
        case TokenError():
            return Diagnosis(str(error.args[0]), passing=not error.refused)
        case AuthenticationFailedError() | SaslAuthenticationFailed():
            sentence = f"the broker at {address} refuses {_REFUSED[settings.kafka_sasl_mechanism]}"
        case ssl.SSLCertVerificationError():
            sentence = (
                f"the certificate of the broker at {address} is not trusted ({error.verify_message}): name its CA by "
                "BACKSTOP_KAFKA_SSL_CAFILE"
            )
        case ssl.SSLError():
            sentence = (
                f"the broker at {address} does not speak TLS as this client does ({error.reason or error}): is "
                "BACKSTOP_KAFKA_SECURITY_PROTOCOL right for this port?"
            )
        case ConnectionRefusedError():
            return Diagnosis(f"no Kafka broker answers at {address}: nothing listens there; {START}", passing=True)
        case TimeoutError():
            return Diagnosis(
                f"no Kafka broker answers at {address} within {ASK_MS // 1000} s: is it running, is the way to it "
                "open, and is BACKSTOP_KAFKA_SECURITY_PROTOCOL right for this port?",
                passing=True,
            )
        case OSError():
            return Diagnosis(f"no Kafka broker answers at {address} ({error.strerror or error}); {START}", passing=True)
        case ValueError():
            sentence = f"{address} is not HOST:PORT: correct KAFKA_BOOTSTRAP_SERVERS"
        case _:
            certificate = (
                ", and does the broker want a certificate that it trusts (BACKSTOP_KAFKA_SSL_CERTFILE)"
                if settings.kafka_uses_tls
                else ""
            )
            return Diagnosis(
                f"the broker at {address} closed the connection ({error}): is BACKSTOP_KAFKA_SECURITY_PROTOCOL "
                f"({settings.kafka_security_protocol}) right for this port{certificate}?",
                passing=True,
            )
    return Diagnosis(sentence, passing=False)


_LOGIN: Final = "the user name or the password: correct BACKSTOP_KAFKA_SASL_USERNAME or BACKSTOP_KAFKA_SASL_PASSWORD"
_REFUSED: Final[Mapping[Mechanism, str]] = {
    "PLAIN": _LOGIN,
    "SCRAM-SHA-256": _LOGIN,
    "SCRAM-SHA-512": _LOGIN,
    "OAUTHBEARER": "the token: correct BACKSTOP_KAFKA_OAUTH_CLIENT_ID, BACKSTOP_KAFKA_OAUTH_SCOPE or "
    "BACKSTOP_KAFKA_OAUTH_EXTENSIONS",
    "AWS_MSK_IAM": "the credentials of AWS: may they connect (kafka-cluster:Connect), and is "
    "BACKSTOP_KAFKA_AWS_REGION right?",
}
"""What the operator must correct."""

START: Final = "start one (`backstop broker up`) or correct KAFKA_BOOTSTRAP_SERVERS"
