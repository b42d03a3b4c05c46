"""A whole system that runs on a loop of its own thread, so that a test may use it from blocking code."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cli.system import Shape, System, running_system

UP_WITHIN_S = 120.0
DOWN_WITHIN_S = 60.0


@contextmanager
def held(shape: Shape) -> Iterator[System]:
    """The system of `shape`, up; down and gone when the block ends."""
    stop, started = asyncio.Event(), threading.Event()
    made: list[System | BaseException] = []

    async def hold() -> None:
        try:
            async with running_system(shape, print, lambda _kill: None) as system:
                made.append(system)
                started.set()
                await stop.wait()
        except BaseException as error:
            made.append(error)
            started.set()
            raise

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=runner.run, args=(hold(),))
        thread.start()
        try:
            assert started.wait(UP_WITHIN_S), "the system did not come up"
            assert isinstance(made[0], System), made[0]
            yield made[0]
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(DOWN_WITHIN_S)
