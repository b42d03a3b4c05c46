"""Signing secrets of webhook endpoints, derived and never stored: no topic, file or database holds one.

An endpoint's facts name a key (by a digest of it) and a number; the secret is the HMAC of endpoint and number under that key. Whoever
has the keys, from the environment, can make each secret again; whoever reads the topics can make none.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from pydantic import SecretStr

from backstop.runtime.errors import ConfigurationError
from schemas.webhook_endpoints import SecretRef

KEY_CHARS_MIN: Final = 32
KEYS_MAX: Final = 8


class SecretKeys:
    """The keys of `BACKSTOP_OUTGOING_KEYS`. The first makes new secrets; the others still make those that they made."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        """:raises ConfigurationError: none, too many, or one that is too short to be a key."""
        if not 1 <= len(keys) <= KEYS_MAX:
            raise ConfigurationError(
                f"set BACKSTOP_OUTGOING_KEYS to 1 to {KEYS_MAX} keys: `openssl rand -base64 32` makes one"
            )
        values = [key.get_secret_value().encode() for key in keys]
        for number, value in enumerate(values, start=1):
            if len(value) < KEY_CHARS_MIN:
                raise ConfigurationError(f"BACKSTOP_OUTGOING_KEYS, key {number}: {KEY_CHARS_MIN} characters at least")
        self._by_id = {_key_id(value): value for value in values}
        self.current_id = _key_id(values[0])

    def secret(self, endpoint_id: str, ref: SecretRef) -> bytes | None:
        """None: the key that made it is not among ours."""
        key = self._by_id.get(ref.key_id)
        if key is None:
            return None
        return hmac.digest(key, f"webhook secret\n{endpoint_id}\n{ref.number}".encode(), "sha256")

    def shown(self, endpoint_id: str, ref: SecretRef) -> str:
        """As Standard Webhooks writes it; the key is ours.

        :raises KeyError: it is not.
        """
        secret = self.secret(endpoint_id, ref)
        if secret is None:
            raise KeyError(ref.key_id)
        return "whsec_" + base64.b64encode(secret).decode()


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"webhook key id\n" + key).hexdigest()[:12]
