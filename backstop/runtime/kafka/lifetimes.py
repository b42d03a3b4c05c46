"""Kafka's clients, started and stopped so that none is left behind: not by a start that fails, nor by a caller that is cancelled.

An aiokafka client that is not stopped keeps its connections and its tasks for as long as the process lives. So nothing else in these
packages calls `start` of a client.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

_stopping: set["asyncio.Task[None]"] = set()
"""asyncio keeps only weak references to tasks."""


class Client(Protocol):
    """A consumer, a producer, or an admin client of aiokafka's, which calls its `stop` `close`."""

    async def start(self) -> Any: ...


C = TypeVar("C", bound=Client)


@asynccontextmanager
async def running(client: C) -> AsyncIterator[C]:
    """`client` for the length of a block."""
    await started(client)
    try:
        yield client
    finally:
        await stopped(client)


async def started(client: C) -> C:
    """For a client that outlives a block; whoever keeps it calls `stopped`. Where the start fails or is cancelled, it is stopped here."""
    try:
        await client.start()
        # aiokafka 0.14: a consumer without a group that is stopped before its first task has run raises CancelledError.
        await asyncio.sleep(0)
    except BaseException:
        await stopped(client)
        raise
    return client


async def stopped(client: Client) -> None:
    """Stop it. A caller that is cancelled meanwhile does not wait, and the client goes on stopping."""
    stopping = asyncio.create_task(_stop(client))
    _stopping.add(stopping)
    stopping.add_done_callback(_stopping.discard)
    await asyncio.shield(stopping)


async def _stop(client: Any) -> None:
    await asyncio.sleep(0)  # as above: a start that was cancelled may have begun tasks that have not run
    await (client.stop() if hasattr(client, "stop") else client.close())
