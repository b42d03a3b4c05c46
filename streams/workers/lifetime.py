"""How a worker runs: it takes until it is told to stop, finishes what is in flight, and lets a bug end the process."""

import asyncio
from collections.abc import Awaitable, Callable

TAKING_STOPS_S = 5.0
"""How long a batch that was being taken may still take: one commit, unless the broker is away."""

Take = Callable[[asyncio.Event, asyncio.TaskGroup], Awaitable[None]]


async def run_until(
    stop: asyncio.Event, take: Take, drained: Callable[[], Awaitable[None]], drain_s: float, *background: Take
) -> None:
    """Run `take(stop, tasks)`, which puts its calls into `tasks`, until `stop` is set; then wait for `drained()`.

    `background` runs beside it until everything is drained. After `drain_s` what is still in flight is cancelled.

    Raises the first exception of any part, and cancels all others.
    """
    no_more = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as tasks:
            # Calls in flight are tasks of an inner group, so that one line cancels them all when the drain takes too long.
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
