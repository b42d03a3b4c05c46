"""The broker's security settings in Faust's form."""

import ssl
from typing import Any

import faust

from backstop.runtime.settings import RuntimeSettings

_MECHANISMS = {
    "PLAIN": faust.types.auth.SASLMechanism.PLAIN,
    "SCRAM-SHA-256": faust.types.auth.SASLMechanism.SCRAM_SHA_256,
    "SCRAM-SHA-512": faust.types.auth.SASLMechanism.SCRAM_SHA_512,
}


def broker_credentials(settings: RuntimeSettings) -> dict[str, Any]:
    """Settings of the Faust app for the broker's security protocol; empty for PLAINTEXT."""
    protocol = settings.kafka_security_protocol
    if protocol == "PLAINTEXT":
        return {}
    cafile = str(settings.kafka_ssl_cafile) if settings.kafka_ssl_cafile else None
    context = ssl.create_default_context(cafile=cafile) if protocol.endswith("SSL") else None
    if protocol == "SSL":
        return {"broker_credentials": faust.SSLCredentials(context=context)}
    password = settings.kafka_sasl_password
    return {
        "broker_credentials": faust.SASLCredentials(
            username=settings.kafka_sasl_username,
            password=password.get_secret_value() if password else None,
            mechanism=_MECHANISMS[settings.kafka_sasl_mechanism],
            ssl_context=context,
        )
    }
