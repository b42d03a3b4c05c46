"""How long an event loop stood still, as whoever waits for it sees it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

BEAT_S = 0.002


@dataclass
class Pauses:
    seen_s: list[float] = field(default_factory=list)

    @property
    def longest_s(self) -> float:
        return max(self.seen_s, default=0.0)


@asynccontextmanager
async def measured() -> AsyncIterator[Pauses]:
    """A task that wants to run every 2 ms, on this loop; how much later it did."""
    pauses = Pauses()

    async def beat() -> None:
        while True:
            before_s = time.perf_counter()
            await asyncio.sleep(BEAT_S)
            pauses.seen_s.append(time.perf_counter() - before_s - BEAT_S)

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)
    try:
        yield pauses
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
