"""Handles several partitions concurrently in one agent.

Faust's own way, `isolated_partitions=True`, starts and stops an actor per partition in each rebalance and marks the
subscription as changed each time, which may cause the next rebalance. Here one plain agent is enough.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["each_partition"]


async def each_partition(stream: Any, handle: Callable[[Any], Awaitable[None]]) -> None:
    """Await `handle(event)` for each batch, and acknowledge the batch when it returns: the whole body of an agent.

    Batches of one partition are handled in order (`BatchConsumer` has at most one event of a partition out), those of
    different partitions concurrently. An exception of `handle` ends the process before the acknowledgement.
    """
    stream.enable_acks = False
    tasks: set[asyncio.Task[None]] = set()

    async def run(event: Any) -> None:
        try:
            await handle(event)
        except Exception as error:
            stream.app.fail(error)
            return
        event.ack()

    async for event in stream.events():
        task = asyncio.create_task(run(event), name=f"{event.message.topic}-{event.message.partition}")
        tasks.add(task)
        task.add_done_callback(tasks.discard)
