"""Ctrl-C once: shut down in order. Ctrl-C twice: kill at once."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from backstop.cli.output import tell

INTERRUPTED = 130

Kill = Callable[[], None]
OnKill = Callable[[Kill], None]


def run_interruptible(main: Callable[[OnKill], Coroutine[Any, Any, int]], *, interrupted: int = INTERRUPTED) -> int:
    """Run `main` and return its exit code. SIGINT or SIGTERM cancels it; after its clean-up `interrupted` is returned.
    A second signal calls the function that `main` registered to kill everything at once.
    """
    return asyncio.run(_run(main, interrupted))


async def _run(main: Callable[[OnKill], Coroutine[Any, Any, int]], interrupted: int) -> int:
    kills: list[Kill] = []
    count = 0
    task = asyncio.create_task(main(kills.append), name="main")

    def on_signal() -> None:
        nonlocal count
        count += 1
        if count == 1:
            tell("\nstopping everything in order; press Ctrl-C again to kill it at once")
            task.cancel()
        else:
            for kill in kills:
                kill()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        return await task
    except asyncio.CancelledError:
        return interrupted
