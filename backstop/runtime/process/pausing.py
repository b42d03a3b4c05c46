"""A wait between two turns of a loop that ends early when the loop is stopped."""

import asyncio


async def pause(stop: asyncio.Event, wait_s: float) -> None:
    """Wait for `wait_s`; return at once when `stop` is set."""
    try:
        async with asyncio.timeout(wait_s):
            await stop.wait()
    except TimeoutError:
        return
