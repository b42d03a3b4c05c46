"""How a worker runs: takes records until `stop`, finishes the calls in flight, and raises any exception."""

import asyncio
from collections.abc import Awaitable, Callable

TAKING_STOPS_S = 5.0
"""After `stop`, the time for the batch that is being taken: one commit, unless the broker is unavailable."""

Take = Callable[[asyncio.Event, asyncio.TaskGroup], Awaitable[None]]


async def run_until(
    stop: asyncio.Event, take: Take, drained: Callable[[], Awaitable[None]], drain_s: float, *background: Take
) -> None:
    """Run `take(stop, tasks)`, which starts its calls in `tasks`, until `stop` is set; then wait for `drained()`.

    `background` runs concurrently until all calls are drained. Calls still in flight after `drain_s` are cancelled.

    Raises the first exception of any part, and cancels all others.
    """
    no_more = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as tasks:
            # Calls in flight are tasks of an inner group, so that one `cancel` ends them if the drain takes too long.
            everything = tasks.create_task(_serve(stop, take, drained, background, no_more))
            await no_more.wait()
            await asyncio.wait({everything}, timeout=drain_s)
            everything.cancel()
    except BaseExceptionGroup as group:
        raise _first(group) from None


async def _serve(
    stop: asyncio.Event,
    take: Take,
    drained: Callable[[], Awaitable[None]],
    background: tuple[Take, ...],
    no_more: asyncio.Event,
) -> None:
    async with asyncio.TaskGroup() as tasks:
        beside = [tasks.create_task(_awaited(part, stop, tasks)) for part in background]
        taking = tasks.create_task(_awaited(take, stop, tasks))
        await stop.wait()
        await asyncio.wait({taking}, timeout=TAKING_STOPS_S)
        taking.cancel()
        no_more.set()
        await drained()
        for part in beside:
            part.cancel()


async def _awaited(part: Take, stop: asyncio.Event, tasks: asyncio.TaskGroup) -> None:
    await part(stop, tasks)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
