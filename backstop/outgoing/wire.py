"""PURE: an event as HTTP body and headers, signed after Standard Webhooks 1.0.

The body has the form of OpenAI's webhooks, so that `client.webhooks.unwrap` of their SDKs reads it; its bytes are the
same for each attempt. The signed text is `id.timestamp.body` with the time of the attempt: a receiver refuses an event
older than its tolerance.
"""

import base64
import hmac
import json
from collections.abc import Iterable

from schemas.deliveries import Delivery

CONTENT_TYPE = "application/json"


def body_of(delivery: Delivery, event_id: str) -> bytes:
    event = {
        "id": event_id,
        "object": "event",
        "created_at": delivery.created_at_s,
        "type": delivery.event_type,
        "data": {"id": delivery.response_id},
    }
    return json.dumps(event).encode()


def headers_of(webhook_id: str, at_s: int, body: bytes, secrets: Iterable[bytes], user_agent: str) -> dict[str, str]:
    """Headers with one signature per secret, the current one first: during a rotation a receiver may know either."""
    signed = f"{webhook_id}.{at_s}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(secret, signed, "sha256")).decode() for secret in secrets)
    return {
        "Content-Type": CONTENT_TYPE,
        "User-Agent": user_agent,
        "webhook-id": webhook_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
