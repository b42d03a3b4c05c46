"""Starts and stops Kafka clients so that neither a failed start nor a cancelled caller leaks one.

An aiokafka client that is not stopped keeps its connections and tasks until the process ends. So this module is the
only caller of a client's `start`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar

from aiokafka.errors import KafkaError

from backstop.runtime.errors import BrokerUnavailableError

_stopping: set["asyncio.Task[None]"] = set()
"""asyncio keeps only weak references to tasks."""


class Client(Protocol):
    """A consumer, a producer, or an admin client (whose stop method is called `close`)."""

    async def start(self) -> Any: ...


C = TypeVar("C", bound=Client)


@contextmanager
def broker_errors(what: str) -> Iterator[None]:
    """Raise the errors of Kafka's clients as `BrokerUnavailableError`, whose text begins with `what`."""
    try:
        yield
    except (KafkaError, OSError) as error:
        raise BrokerUnavailableError(f"{what}: {error!r}") from error


@asynccontextmanager
async def running(client: C) -> AsyncIterator[C]:
    """`client`, started for the length of a block."""
    await started(client)
    try:
        yield client
    finally:
        await stopped(client)


async def started(client: C) -> C:
    """Start a client that outlives a block; its owner calls `stopped`. If
    the start fails or is cancelled, it is stopped here.
    """
    try:
        await client.start()
        # aiokafka 0.14: a consumer without a group that is stopped before its first task has run raises CancelledError.
        await asyncio.sleep(0)
    except BaseException:
        await stopped(client)
        raise
    return client


async def stopped(client: Client) -> None:
    """Stop `client`. If the caller is cancelled meanwhile, it returns at once and the client goes on stopping."""
    stopping = asyncio.create_task(_stop(client))
    _stopping.add(stopping)
    stopping.add_done_callback(_stopping.discard)
    await asyncio.shield(stopping)


async def _stop(client: Any) -> None:
    await asyncio.sleep(0)  # as above: a start that was cancelled may have begun tasks that have not run
    await (client.stop() if hasattr(client, "stop") else client.close())
