"""Ctrl-C once: end in order. Ctrl-C twice: end at once."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from backstop.cli.output import tell

INTERRUPTED = 130

Kill = Callable[[], None]
OnKill = Callable[[Kill], None]


def run_interruptible(main: Callable[[OnKill], Coroutine[Any, Any, int]], *, interrupted: int = INTERRUPTED) -> int:
    """Run `main` to its exit code. SIGINT or SIGTERM cancels it, and gives `interrupted` once its clean-up is done; a second one
    calls what `main` registered as its way to end at once.
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
            tell("\nending everything in order; Ctrl-C again to end it at once")
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
