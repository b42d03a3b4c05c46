"""TLS and authentication towards the brokers, as aiokafka takes them."""

import ssl
from typing import Any

from aiokafka.helpers import create_ssl_context

from backstop.runtime.broker_settings import BrokerSettings
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.kafka.tokens import tokens_of


def tls_of(settings: BrokerSettings) -> ssl.SSLContext | None:
    """The TLS context with CA, certificate and key of the settings; None for a protocol without TLS.

    :raises ConfigurationError: a file is missing, or holds something else. The message names the setting.
    """
    if not settings.kafka_uses_tls:
        return None
    cafile = settings.kafka_ssl_cafile
    try:
        context: ssl.SSLContext = create_ssl_context(cafile=str(cafile) if cafile else None)
    except OSError as error:  # also of `ssl`: a file without a certificate
        why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigurationError(f"BACKSTOP_KAFKA_SSL_CAFILE {cafile}: {why}") from None
    if settings.kafka_ssl_certfile is not None:
        _add_certificate(context, settings)
    return context


def _add_certificate(context: ssl.SSLContext, settings: BrokerSettings) -> None:
    certfile, keyfile = settings.kafka_ssl_certfile, settings.kafka_ssl_keyfile
    password = settings.kafka_ssl_key_password
    try:
        # Without a password OpenSSL would ask on the terminal.
        context.load_cert_chain(str(certfile), str(keyfile) if keyfile else None,
                                lambda: password.get_secret_value() if password else "")  # fmt: skip
    except OSError as error:
        files = f"BACKSTOP_KAFKA_SSL_CERTFILE {certfile}" + (
            f" with BACKSTOP_KAFKA_SSL_KEYFILE {keyfile}" if keyfile else ""
        )
        why = (
            "no certificate with its key, or BACKSTOP_KAFKA_SSL_KEY_PASSWORD is wrong"
            if isinstance(error, ssl.SSLError)
            else error.strerror
        )
        raise ConfigurationError(f"{files}: {why}") from None


def security_options(settings: BrokerSettings) -> dict[str, Any]:
    """Keyword arguments of aiokafka's clients.

    :raises ConfigurationError: as `tls_of` and `tokens_of`.
    """
    options: dict[str, Any] = {"security_protocol": settings.kafka_security_protocol}
    context = tls_of(settings)
    if context is not None:
        options["ssl_context"] = context
    if not settings.kafka_uses_sasl:
        return options
    tokens = tokens_of(settings)
    if tokens is not None:
        return {**options, "sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": tokens}
    password = settings.kafka_sasl_password
    return {
        **options,
        "sasl_mechanism": settings.kafka_sasl_mechanism,
        "sasl_plain_username": settings.kafka_sasl_username,
        "sasl_plain_password": password.get_secret_value() if password else None,
    }
