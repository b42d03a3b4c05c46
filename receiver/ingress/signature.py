"""PURE: verifies Standard Webhooks signatures of `POST /webhooks/openai`.

The SDK's `verify_signature` takes one secret, reads a clock, and raises five kinds of exception on hostile input. Here
any headers and any bytes give a verdict, never an exception. A request must satisfy each rule:

1. `webhook-id`, `webhook-timestamp` and `webhook-signature` are present exactly once and well-formed.
2. The timestamp differs from the receiver's clock by at most the tolerance, to either side, in whole seconds.
3. One `v1,` value is the HMAC-SHA256 of `id.timestamp.body` under one of the secrets. Every secret is tried on every
   value, in constant time, without an early exit: a rotation needs two secrets, and timing must not tell which one
   matched.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

KEY_BYTES_MIN = 24
KEY_BYTES_MAX = 64
SIGNATURE_BYTES_MAX = 4_096
SIGNATURES_MAX = 16

_ID = re.compile(r"[A-Za-z0-9_.\-]{1,128}")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")

Reason = Literal["missing_header", "repeated_header", "malformed_header", "stale", "bad_signature"]


@dataclass(frozen=True, slots=True)
class WebhookKey:
    key_id: str
    """A short digest of the secret, for metrics: it tells which secret is in use without revealing it."""
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Verified:
    key_id: str
    webhook_id: str
    sent_at_ms: int


@dataclass(frozen=True, slots=True)
class NotVerified:
    reason: Reason


def parse_key(secret: str) -> WebhookKey:
    """A secret as OpenAI shows it: `whsec_` and strict base64 of 24 to 64 bytes.

    :raises ValueError: the form is wrong. The message never quotes the secret.
    """
    if not secret.startswith("whsec_"):
        raise ValueError("a webhook secret must start with whsec_")
    try:
        key = base64.b64decode(secret.removeprefix("whsec_").encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("a webhook secret must be base64 after whsec_") from None
    if not KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX:
        raise ValueError(f"a webhook secret must hold {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes, not {len(key)}")
    return WebhookKey(hashlib.sha256(key).hexdigest()[:12], key)


def verify(
    body: bytes, headers: Iterable[tuple[str, str]], *, keys: Sequence[WebhookKey], now_ms: int, tolerance_s: int
) -> Verified | NotVerified:
    """The verdict on one request. `headers` in any order and case, with duplicates. Never raises."""
    found: dict[str, list[str]] = {name: [] for name in _HEADERS}
    for name, value in headers:
        values = found.get(name.lower())
        if values is not None:
            values.append(value)
    if not all(found.values()):
        return NotVerified("missing_header")
    if any(len(values) > 1 for values in found.values()):
        return NotVerified("repeated_header")
    webhook_id, timestamp, signature = (found[name][0] for name in _HEADERS)

    signatures = _v1_values(signature)
    if signatures is None or not _ID.fullmatch(webhook_id) or not _TIMESTAMP.fullmatch(timestamp):
        return NotVerified("malformed_header")
    if abs(now_ms // 1000 - int(timestamp)) > tolerance_s:
        return NotVerified("stale")

    signed = f"{webhook_id}.{timestamp}.".encode() + body
    matched: WebhookKey | None = None
    for key in keys:
        expected = base64.b64encode(hmac.new(key.secret, signed, hashlib.sha256).digest())
        for given in signatures:
            if hmac.compare_digest(expected, given):
                matched = key
    if matched is None:
        return NotVerified("bad_signature")
    return Verified(matched.key_id, webhook_id, int(timestamp) * 1000)


def _v1_values(header: str) -> list[bytes] | None:
    """The base64 texts of the `v1,` values; other versions are ignored. None if the header breaks the limits."""
    raw = header.encode("utf-8", "surrogatepass")
    values = [value for value in raw.split(b" ") if value]
    if len(raw) > SIGNATURE_BYTES_MAX or not 1 <= len(values) <= SIGNATURES_MAX:
        return None
    return [value.removeprefix(b"v1,") for value in values if value.startswith(b"v1,")]
