"""A client of OpenAI against a server that misbehaves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from streams.openai.answers import Reply
from streams.openai.client import OpenAIClient
from tests.support.accounts import account_at, client_of
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.misbehaving import RESPONSE_ID, Mischief, Server, serving

KEY = "sk-test-0123456789abcdef"
LOOP = server.redirect(307, f"/v1/responses/{RESPONSE_ID}")
"""Where it leads is here again."""


@asynccontextmanager
async def connected(base_url: str, poll_timeout_ms: int = 5_000, **options: Any) -> AsyncIterator[OpenAIClient]:
    client = client_of(account_at(base_url, KEY, **options), poll_timeout_ms=poll_timeout_ms)
    try:
        yield client
    finally:
        await client.close()


def created(client: OpenAIClient, request: dict[str, Any] | None = None, timeout_ms: int = 5_000) -> Awaitable[Reply]:
    asked = request or {"model": "m", "input": "Hi"}
    return client.create(asked, job_id="job_1", attempt=2, tenant="acme", timeout_ms=timeout_ms)


def create_against(mischief: Mischief, **options: Any) -> tuple[Reply, Server]:
    async def scenario() -> tuple[Reply, Server]:
        async with serving(mischief) as state, connected(state.base_url, **options) as client:
            return await created(client), state

    return asyncio.run(scenario())
