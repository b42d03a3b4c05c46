"""A pause is work of this process that holds up its loop, on the loop or in a thread that holds the interpreter."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import orjson
import pytest

from tests.hostile.pauses import measured

WORK_S = 0.1


def busy() -> None:
    """Work until this process has used so much CPU time, however long the machine takes for that."""
    until_s = time.process_time() + WORK_S
    while time.process_time() < until_s:
        pass


async def on_the_loop() -> None:
    busy()
    await asyncio.sleep(0)


async def in_a_thread_that_holds_the_interpreter() -> None:
    document = b"[" + b"[0.5,1.5]," * 4_000_000 + b"0]"
    await asyncio.to_thread(orjson.loads, document)


@pytest.mark.parametrize("work", [on_the_loop, in_a_thread_that_holds_the_interpreter])
def test_what_this_process_does_counts(work: Callable[[], Awaitable[None]]) -> None:
    async def scenario() -> None:
        async with measured() as pauses:
            await work()
        assert pauses.longest_s >= WORK_S * 0.9

    asyncio.run(scenario())


def test_work_that_lets_the_loop_go_on_does_not() -> None:
    async def scenario() -> None:
        async with measured() as pauses:
            await asyncio.to_thread(busy)
        assert min(pauses.seen_s) < WORK_S / 2
        assert len(pauses.seen_s) > 1

    asyncio.run(scenario())
