"""Threads for calls that may hang, apart from all others: a file system of a network, whose server is away, answers
nothing, and a thread that waits for it can't be stopped.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

THREADS_MAX: Final = 16


class Threads:
    """Calls in threads of their own; those beyond `THREADS_MAX` wait for their turn."""

    def __init__(self, name: str, threads_max: int = THREADS_MAX) -> None:
        self._pool = ThreadPoolExecutor(threads_max, name)

    async def run(self, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """As `asyncio.to_thread`. If it is cancelled, a call that has begun goes on, one that waits never begins."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(work, *args, **options))
