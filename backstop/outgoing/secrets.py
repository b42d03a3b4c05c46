"""Signing secrets of webhook endpoints, derived and never stored: no topic, file or database holds one.

An endpoint's facts name a key (by its digest) and a number; the secret is the HMAC of endpoint and number under that
key. The keys come from the environment: a process that has them can derive every secret, a reader of the topics none.
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
    """The keys of `BACKSTOP_OUTGOING_KEYS`. The first makes new secrets; the others still derive their earlier ones."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        """:raises ConfigurationError: no key, too many keys, or a key that is too short."""
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
        """None: the key that made this secret is not configured."""
        key = self._by_id.get(ref.key_id)
        if key is None:
            return None
        return hmac.digest(key, f"webhook secret\n{endpoint_id}\n{ref.number}".encode(), "sha256")

    def shown(self, endpoint_id: str, ref: SecretRef) -> str:
        """The secret as Standard Webhooks writes it.

        :raises KeyError: its key is not configured.
        """
        secret = self.secret(endpoint_id, ref)
        if secret is None:
            raise KeyError(ref.key_id)
        return "whsec_" + base64.b64encode(secret).decode()


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"webhook key id\n" + key).hexdigest()[:12]
