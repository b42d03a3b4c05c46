"""How long an event loop stood still, by what the process did meanwhile.

A pause counts as the CPU time that all threads of this process used between two beats of the loop, and never more than the time that
passed: what the loop's own thread did, and what another one did that held the interpreter. What the machine did with other processes
is no pause of ours, so the figure is the same on a busy machine.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

BEAT_S = 0.002
TRIES = 5


@dataclass
class Pauses:
    seen_s: list[float] = field(default_factory=list)

    @property
    def longest_s(self) -> float:
        return max(self.seen_s, default=0.0)


@asynccontextmanager
async def measured() -> AsyncIterator[Pauses]:
    """A task that wants to run every 2 ms, on this loop; how much later it did, for a reason that lies in this process."""
    pauses = Pauses()

    async def beat() -> None:
        while True:
            before_s, used_s = time.perf_counter(), time.process_time()
            try:
                await asyncio.sleep(BEAT_S)
            finally:  # the last one, too, which the end cuts short
                passed_s = time.perf_counter() - before_s - BEAT_S
                pauses.seen_s.append(max(0.0, min(passed_s, time.process_time() - used_s)))

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)
    try:
        yield pauses
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


async def least_pause_s(enough_s: float, work: Callable[[], Awaitable[None]]) -> float:
    """The longest pause of the loop while `work` runs, in the best of `TRIES`; the first below `enough_s` will do."""
    least_s = float("inf")
    for _ in range(TRIES):
        async with measured() as pauses:
            await work()
        least_s = min(least_s, pauses.longest_s)
        if least_s <= enough_s:
            break
    return least_s
