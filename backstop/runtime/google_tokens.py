"""Tokens for Google's services: of a service account's key, or of the machine's account where the settings ask for it.

With a key, a signed assertion is exchanged for a token (RFC 7523), as
https://developers.google.com/identity/protocols/oauth2/service-account describes under HTTP/REST (2026-11-30).
"""

import asyncio
import base64
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import orjson
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from backstop.runtime.addresses import is_loopback_host
from backstop.runtime.bucket_requests import BucketRequestError
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.google_web import GoogleWeb
from backstop.runtime.process.clock import NowMs, monotonic_s

SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
ASSERTION_S: Final = 3_600
"""The longest time that an assertion may be valid."""
EARLY_S: Final = 300.0
"""A token is replaced this long before its end; until that end it serves where no newer one can be had."""
METADATA: Final = "http://169.254.169.254"
"""The metadata service of Google's machines, which knows their account."""
METADATA_PATH: Final = "/computeMetadata/v1/instance/service-accounts/default/token"
GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_REFUSALS: Final = frozenset({400, 401, 403, 404})
_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    email: str
    key_id: str
    token_url: str
    key: RSAPrivateKey = field(repr=False)

    def assertion(self, now_s: int) -> str:
        """What proves to the token endpoint that we have the key. Valid for an hour."""
        claims = {
            "iss": self.email, "scope": SCOPE, "aud": self.token_url, "iat": now_s, "exp": now_s + ASSERTION_S,
        }  # fmt: skip
        head = {"alg": "RS256", "typ": "JWT", "kid": self.key_id}
        signed = b".".join(_base64(orjson.dumps(part)) for part in (head, claims))
        return b".".join((signed, _base64(self.key.sign(signed, PKCS1v15(), SHA256())))).decode()


def service_account(given: str) -> ServiceAccount:
    """The account of a key as Google hands it out, a JSON document.

    :raises ConfigurationError: it is another document. The message holds nothing of it.
    """
    try:
        told = orjson.loads(given)
        email, key_id, url = (str(told[name]) for name in ("client_email", "private_key_id", "token_uri"))
        key = load_pem_private_key(told["private_key"].encode(), None)
        parts = urlsplit(url)
        safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback_host(parts.hostname or ""))
        if told["type"] == "service_account" and isinstance(key, RSAPrivateKey) and safe:
            return ServiceAccount(email, key_id, url, key)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError):
        pass
    raise ConfigurationError(
        "BACKSTOP_BLOBS_SECRET_KEY is no key of a service account: give the JSON document that Google made, with "
        "client_email, private_key and an https token_uri; best its path, as BACKSTOP_BLOBS_SECRET_KEY_FILE"
    ) from None


class GoogleTokens:
    """The current token, asked for by one caller at a time."""

    def __init__(self, account: ServiceAccount | None, web: GoogleWeb, now_ms: NowMs, metadata: str = METADATA) -> None:
        """:param account: None: the machine's own, of which the service at `metadata` gives tokens."""
        self._account = account
        self._web = web
        self._now_ms = now_ms
        self._metadata = metadata
        self._asking = asyncio.Lock()
        self._token = ""
        self._fresh_until_s = self._valid_until_s = float("-inf")

    async def current(self) -> str:
        """:raises BucketRequestError: none could be had."""
        async with self._asking:
            now_s = monotonic_s()
            if now_s >= self._fresh_until_s:
                try:
                    self._token, lifetime_s = await self._fetched()
                except BucketRequestError:
                    if now_s >= self._valid_until_s:
                        raise
                    return self._token
                self._valid_until_s = now_s + lifetime_s
                self._fresh_until_s = now_s + max(lifetime_s - EARLY_S, lifetime_s / 2)
            return self._token

    def refuse(self, token: str) -> None:
        """The service does not take this token: the next caller gets another one."""
        if token == self._token:
            self._fresh_until_s = self._valid_until_s = float("-inf")

    async def _fetched(self) -> tuple[str, float]:
        if self._account is None:
            answer = await self._web.ask(
                "GET", f"{self._metadata}{METADATA_PATH}", headers={"Metadata-Flavor": "Google"}, direct=True
            )
        else:
            form = urlencode({"grant_type": GRANT, "assertion": self._account.assertion(self._now_ms() // 1000)})
            answer = await self._web.ask("POST", self._account.token_url, headers=_FORM, data=(form.encode(),))
        if answer.status in _REFUSALS:
            error = answer.error()
            raise BucketRequestError("clock" if error.trouble == "clock" else "denied", f"no token: {error}")
        if answer.status != HTTPStatus.OK:
            raise answer.error()
        return _read(answer.document())


def _read(told: dict[str, Any]) -> tuple[str, float]:
    token, lifetime_s = told.get("access_token"), told.get("expires_in")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
        raise BucketRequestError("denied", "the answer to a request for a token has none")
    if not isinstance(lifetime_s, int) or lifetime_s <= 0:
        raise BucketRequestError("denied", "the answer to a request for a token does not tell its lifetime")
    return token, float(lifetime_s)


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
