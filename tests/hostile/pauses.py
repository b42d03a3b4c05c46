"""How long an event loop was held up by work of its own process.

A pause is the CPU time that all threads of this process used between two beats of the loop, and at most the time that
passed. It contains the work of the loop's thread and of any thread that held the interpreter. CPU time of other
processes does not count.

The same work takes more CPU time on a slower machine, and where other processes use its caches. So each pause is
divided by how much slower a fixed piece of work is at that time than on the machine on which the limits were set.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

BEAT_S = 0.002
TRIES = 5
REFERENCE_S = 0.022
"""CPU time of `_reference` on the machine on which the limits were set, with nothing beside it."""


@dataclass
class Pauses:
    seen_s: list[float] = field(default_factory=list)

    @property
    def longest_s(self) -> float:
        return max(self.seen_s, default=0.0)


@asynccontextmanager
async def measured() -> AsyncIterator[Pauses]:
    """Run a task every 2 ms on this loop, and record each delay that this process caused."""
    pauses = Pauses()

    async def beat() -> None:
        while True:
            before_s, used_s = time.perf_counter(), time.process_time()
            try:
                await asyncio.sleep(BEAT_S)
            finally:  # Record the last beat, too, which `cancel` cuts short.
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
    """The longest pause of the loop while `work` runs, in the best of `TRIES`; the first below `enough_s` will do.

    In seconds of the machine on which the limits were set.
    """
    least_s = float("inf")
    for _ in range(TRIES):
        before = slowness()
        async with measured() as pauses:
            await work()
        least_s = min(least_s, pauses.longest_s / min(before, slowness()))
        if least_s <= enough_s:
            break
    return least_s


def slowness() -> float:
    """How many times as long as on the machine of the limits a fixed piece of work takes now; at least 1."""
    used_s = time.process_time()
    _reference()
    return max(1.0, (time.process_time() - used_s) / REFERENCE_S)


def _reference() -> None:
    """Work of the kinds that hold up a loop: it parses a text of some MB, and walks what it found."""
    found = json.loads("[" + ",".join(['{"key": [1, 2, 3], "text": "some words"}'] * 20_000) + "]")
    assert sum(len(each["key"]) for each in found) == 60_000
