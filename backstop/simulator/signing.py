"""How OpenAI signs a webhook: Standard Webhooks, HMAC-SHA256 over id, timestamp and the bytes sent."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable
from hashlib import sha256


def signature(keys: Iterable[bytes], webhook_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature for each key, separated by spaces."""
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return " ".join("v1," + base64.b64encode(hmac.digest(key, signed, sha256)).decode() for key in keys)
