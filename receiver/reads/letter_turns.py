"""Turns of decisions about dead letters: each decision has a consumer and a producer of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from receiver.problems import unavailable

TENANTS_TURNS_MAX: Final = 2
"""Requests of a tenant at one time: one that runs, and one that waits for it."""
TURNS_MAX: Final = 6
"""Requests of all tenants at one time, running or waiting."""


class LetterTurns:
    """Requests of one tenant follow each other, those of different tenants run side by side."""

    def __init__(self, retry_after_s: int) -> None:
        self._retry_after_s = retry_after_s
        self._running: dict[str, asyncio.Lock] = {}
        self._held: dict[str, int] = {}

    @asynccontextmanager
    async def of(self, tenant: str) -> AsyncIterator[None]:
        """:raises Refusal: 503 `busy`, too many requests run or wait."""
        held = self._held.get(tenant, 0)
        if held >= TENANTS_TURNS_MAX or sum(self._held.values()) >= TURNS_MAX:
            raise unavailable(
                "busy", "Too many decisions about dead letters are in progress; send it again.", self._retry_after_s
            )
        self._held[tenant] = held + 1
        try:
            async with self._running.setdefault(tenant, asyncio.Lock()):
                yield
        finally:
            self._held[tenant] -= 1
            if not self._held[tenant]:
                del self._held[tenant], self._running[tenant]
