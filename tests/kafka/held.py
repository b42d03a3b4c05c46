"""A whole system that runs on a loop of its own thread, so that a test may use it from blocking code."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from backstop.dev.system import Shape, System, running_system

UP_WITHIN_S = 120.0


@contextmanager
def held(shape: Shape) -> Iterator[System]:
    """The system of `shape`, up; down and gone when the block ends."""
    stop, started = asyncio.Event(), threading.Event()
    holding: list[asyncio.Task[None] | None] = []
    made: list[System | BaseException] = []

    async def hold() -> None:
        holding.append(asyncio.current_task())
        try:
            async with running_system(shape, print, lambda _kill: None) as system:
                made.append(system)
                started.set()
                await stop.wait()
        except BaseException as error:  # told by the asserts of the thread that waits for it
            made.append(error)
        started.set()

    def end() -> None:
        stop.set()
        for task in holding:
            if task is not None and not made:  # it has not come up: what it has started so far ends as well
                task.cancel()

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        thread = threading.Thread(target=runner.run, args=(hold(),))
        thread.start()
        try:
            assert started.wait(UP_WITHIN_S), "the system did not come up"
            assert isinstance(made[0], System), made[0]
            yield made[0]
        finally:
            loop.call_soon_threadsafe(end)
            # A loop that still runs can't be closed, and its processes would stay. The test's limit bounds the wait.
            thread.join()
    assert len(made) == 1, f"the system did not end well: {made[1]!r}"
