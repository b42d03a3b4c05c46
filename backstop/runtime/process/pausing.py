"""Waiting between two turns of a loop that may be stopped meanwhile."""

import asyncio


async def pause(stop: asyncio.Event, wait_s: float) -> None:
    """Wait, or return at once when `stop` is set."""
    try:
        async with asyncio.timeout(wait_s):
            await stop.wait()
    except TimeoutError:
        return
