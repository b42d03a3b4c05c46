"""The broker's security settings in Faust's form."""

from typing import Any

from faust.auth import OAuthCredentials, SASLCredentials, SSLCredentials
from faust.types.auth import SASLMechanism

from backstop.runtime.kafka.security import security_options
from backstop.runtime.settings import RuntimeSettings

_MECHANISMS = {
    "PLAIN": SASLMechanism.PLAIN,
    "SCRAM-SHA-256": SASLMechanism.SCRAM_SHA_256,
    "SCRAM-SHA-512": SASLMechanism.SCRAM_SHA_512,
}


def broker_credentials(settings: RuntimeSettings) -> dict[str, Any]:
    """Settings of the Faust app for the broker's security protocol; empty for PLAINTEXT.

    :raises ConfigurationError: as `security_options`.
    """
    given = security_options(settings)
    context = given.get("ssl_context")
    if settings.kafka_security_protocol == "PLAINTEXT":
        return {}
    if not settings.kafka_uses_sasl:
        return {"broker_credentials": SSLCredentials(context=context)}
    if "sasl_oauth_token_provider" in given:
        tokens = given["sasl_oauth_token_provider"]
        return {"broker_credentials": OAuthCredentials(oauth_cb=tokens, ssl_context=context)}
    return {
        "broker_credentials": SASLCredentials(
            username=given["sasl_plain_username"],
            password=given["sasl_plain_password"],
            mechanism=_MECHANISMS[settings.kafka_sasl_mechanism],
            ssl_context=context,
        )
    }
