"""Tokens for brokers that authenticate by OAUTHBEARER: of an identity provider (client credentials), or of AWS for MSK.

aiokafka asks for a token at each connection, from the loops of several threads. A token is fetched in a thread, by one
caller at a time, and used until a fifth of its time is left.
"""

import asyncio
import base64
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Final
from urllib.parse import quote, urlencode

import orjson
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError
from pydantic import SecretStr

from backstop.runtime.broker_settings import BrokerSettings
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.process.clock import monotonic_s
from schemas.text import printable

FETCH_TIMEOUT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 1 << 20
TOLD_CHARS_MAX: Final = 200
USED_SHARE: Final = 0.8
"""The share of its time for which a token is used."""
LIFETIME_S: Final = 300.0
"""Of a token whose answer does not tell it (RFC 6749 recommends that it does)."""
_REFUSALS: Final = frozenset({400, 401, 403})


@dataclass(frozen=True, slots=True)
class BrokerToken:
    value: str
    lifetime_s: float


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Not followed: the secret goes to the endpoint that the settings name, and nowhere else."""


class TokenError(KafkaConnectionError):  # type: ignore[misc]
    """No token could be had, so no connection was made. aiokafka tries again, as for a broker that is away."""

    def __init__(self, sentence: str, *, refused: bool) -> None:
        super().__init__(sentence)
        self.refused = refused
        """Whether the operator must correct a setting; else time may cure it."""


@dataclass(frozen=True, slots=True)
class _Credentials:
    url: str
    client_id: str
    secret: SecretStr
    scope: str | None


class BrokerTokens(AbstractTokenProvider):  # type: ignore[misc]
    """The current token. Safe for the loops of several threads."""

    def __init__(self, fetch: Callable[[], BrokerToken], extensions: Mapping[str, str]) -> None:
        self._fetch = fetch
        self._extensions = dict(extensions)
        self._lock = threading.Lock()
        self._token = ""
        self._fresh_until_s = float("-inf")

    async def token(self) -> str:
        """A token that has not expired.

        :raises TokenError: the identity provider refused, or did not answer.
        """
        return await asyncio.to_thread(self._current)

    def extensions(self) -> dict[str, str]:
        """The SASL extensions that are sent with the token."""
        return self._extensions

    def _current(self) -> str:
        with self._lock:
            if monotonic_s() >= self._fresh_until_s:
                began_s = monotonic_s()
                made = self._fetch()
                self._token, self._fresh_until_s = made.value, began_s + USED_SHARE * made.lifetime_s
            return self._token


def tokens_of(settings: BrokerSettings) -> BrokerTokens | None:
    """What the mechanism of the settings needs; None if it needs no token.

    :raises ConfigurationError: AWS_MSK_IAM without the extra `backstop-jobs[msk]`.
    """
    if not settings.kafka_uses_sasl:
        return None
    if settings.kafka_sasl_mechanism == "AWS_MSK_IAM":
        return _tokens_of_aws(settings.kafka_aws_region or "")
    if settings.kafka_sasl_mechanism == "OAUTHBEARER":
        asked = _Credentials(
            settings.kafka_oauth_token_url or "", settings.kafka_oauth_client_id or "",
            settings.kafka_oauth_client_secret or SecretStr(""), settings.kafka_oauth_scope,
        )  # fmt: skip
        return _tokens_of_client(asked, tuple(settings.kafka_oauth_extensions))
    return None


@cache
def _tokens_of_aws(region: str) -> BrokerTokens:
    """One for all clients of a process, as below."""
    return BrokerTokens(_of_aws(region), {})


@cache
def _tokens_of_client(asked: _Credentials, extensions: tuple[str, ...]) -> BrokerTokens:
    """One for all clients of a process: each connection of each client needs a token, and one token serves them all."""
    return BrokerTokens(
        lambda: _by_client_credentials(asked), dict(extension.split("=", 1) for extension in extensions)
    )


def _of_aws(region: str) -> Callable[[], BrokerToken]:
    try:
        signer: Any = import_module("aws_msk_iam_sasl_signer.MSKAuthTokenProvider")
    except ImportError:
        raise ConfigurationError(
            "BACKSTOP_KAFKA_SASL_MECHANISM=AWS_MSK_IAM needs the extra: install `backstop-jobs[msk]`"
        ) from None

    def fetch() -> BrokerToken:
        try:
            value, _expires_at_ms = signer.generate_auth_token(region)
        except Exception as error:  # botocore has no error of its own for all that may be wrong with credentials
            why = printable(f"{type(error).__name__}: {error}")[:TOLD_CHARS_MAX]
            raise TokenError(f"AWS gave no token for MSK in {region} ({why}): are there credentials of AWS?",
                             refused=True) from None  # fmt: skip
        return BrokerToken(value, LIFETIME_S)  # a signature, made without the network; it is valid for 15 minutes

    return fetch


def _by_client_credentials(asked: _Credentials) -> BrokerToken:
    """Ask for a token as RFC 6749, 4.4, says, with the client's name and secret in the header (2.3.1)."""
    url = asked.url
    given = ":".join(quote(part, safe="") for part in (asked.client_id, asked.secret.get_secret_value()))
    form = {"grant_type": "client_credentials"}
    if asked.scope is not None:
        form["scope"] = asked.scope
    request = urllib.request.Request(  # noqa: S310 - the settings allow http and https alone
        url,
        urlencode(form).encode(),
        {
            "authorization": f"Basic {base64.b64encode(given.encode()).decode()}",
            "content-type": "application/x-www-form-urlencoded",
            "accept": "application/json",
        },
    )
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=FETCH_TIMEOUT_S) as answer:
            return _read(url, answer.read(ANSWER_BYTES_MAX))
    except urllib.error.HTTPError as error:
        with error:
            told = printable(error.read(TOLD_CHARS_MAX).decode(errors="replace"))
        raise TokenError(
            f"the token endpoint {url} answered {error.code} ({told}): correct BACKSTOP_KAFKA_OAUTH_CLIENT_ID, "
            "BACKSTOP_KAFKA_OAUTH_CLIENT_SECRET or BACKSTOP_KAFKA_OAUTH_SCOPE",
            refused=error.code in _REFUSALS,
        ) from None
    except OSError as error:
        raise TokenError(f"the token endpoint {url} does not answer: {error}", refused=False) from None


def _read(url: str, body: bytes) -> BrokerToken:
    try:
        found = orjson.loads(body)
        value, lifetime = found["access_token"], found.get("expires_in", LIFETIME_S)
        token = BrokerToken(value, float(lifetime))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError):
        raise TokenError(f"the token endpoint {url} answered without an access_token", refused=True) from None
    if not isinstance(token.value, str) or not token.value.isascii() or not token.lifetime_s > 0:
        raise TokenError(f"the token endpoint {url} answered with a token that can't be used", refused=True)
    return token
