"""What both hand-made applications share: calls of the provider, and the check of its webhooks."""

import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import Mapping
from typing import Any

import aiohttp

PORT = int(os.environ["PEER_PORT"])
URL = os.environ["PEER_PROVIDER_URL"]
KEY = os.environ["PEER_PROVIDER_KEY"]
SECRET = base64.b64decode(os.environ["PEER_WEBHOOK_SECRET"].removeprefix("whsec_"))
POLL_S = float(os.environ["PEER_POLL_S"])
CALLS_MAX = 64
"""Calls of the provider at one time."""
SKEW_MAX_S = 300
ENDED = frozenset({"completed", "failed", "incomplete", "cancelled"})


def response_of(headers: Mapping[str, str], body: bytes) -> str:
    """The response that a webhook names.

    :raises ValueError: the webhook's signature or time is not the provider's.
    """
    sent_s = headers.get("webhook-timestamp", "")
    if not sent_s.isdigit() or abs(time.time() - int(sent_s)) > SKEW_MAX_S:
        raise ValueError(f"the webhook's time is {sent_s!r}")
    signed = b".".join((headers.get("webhook-id", "").encode(), sent_s.encode(), body))
    own = b"v1," + base64.b64encode(hmac.digest(SECRET, signed, hashlib.sha256))
    if not any(hmac.compare_digest(own, given.encode()) for given in headers.get("webhook-signature", "").split()):
        raise ValueError("no signature of the webhook is the provider's")
    return str(json.loads(body)["data"]["id"])


class Provider:
    """One session for the process. It is made at the first call, in the loop that then runs."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def create(self, job_id: str, text: str) -> str:
        body = {"model": "gpt-bench", "input": text, "background": True, "metadata": {"job": job_id}}
        return str((await self._call("POST", "/responses", body))["id"])

    async def retrieve(self, response_id: str) -> dict[str, Any]:
        return await self._call("GET", f"/responses/{response_id}", None)

    async def _call(self, method: str, path: str, body: object) -> dict[str, Any]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CALLS_MAX), headers={"Authorization": f"Bearer {KEY}"}
            )
        async with self._session.request(method, f"{URL}{path}", json=body) as answer:
            answer.raise_for_status()
            found: dict[str, Any] = await answer.json()
            return found
