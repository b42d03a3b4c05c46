"""Waits for a condition with a deadline: the only way in which tests wait. No test sleeps for a fixed time.

Both helpers return the condition's value, as in `row = wait_until(lambda: find(row_id), ...)`. They fail with an
`AssertionError` that names the awaited condition and the last value or error.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, overload

T = TypeVar("T")

POLL_S = 0.02


def wait_until(
    condition: Callable[[], T | None], timeout_s: float = 10.0, what: str = "the condition", *, poll_s: float = POLL_S
) -> T:
    """Call `condition` until it gives something true; that is returned. An exception in it counts as "not yet"."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        value, error = _tried(condition)
        if value:
            return value
        if time.monotonic() >= deadline_s:
            raise _too_late(what, timeout_s, value, error) from error
        time.sleep(poll_s)


@overload
async def eventually(
    condition: Callable[[], Coroutine[Any, Any, T | None]],
    timeout_s: float = ...,
    what: str = ...,
    *,
    poll_s: float = ...,
) -> T: ...
@overload
async def eventually(
    condition: Callable[[], T | None], timeout_s: float = ..., what: str = ..., *, poll_s: float = ...
) -> T: ...
async def eventually(
    condition: Callable[[], T | Awaitable[T | None] | None],
    timeout_s: float = 10.0,
    what: str = "the condition",
    *,
    poll_s: float = POLL_S,
) -> T:
    """As `wait_until`, on the event loop; `condition` may be a plain or an async function."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    while True:
        value: T | None = None
        error: Exception | None = None
        try:
            async with asyncio.timeout_at(deadline_s):
                outcome = condition()
                value = await outcome if inspect.isawaitable(outcome) else outcome
        except Exception as raised:  # "not yet", whatever it is: the deadline below ends it, and shows it
            error = raised
        if value:
            return value
        if loop.time() >= deadline_s:
            raise _too_late(what, timeout_s, value, error) from error
        await asyncio.sleep(poll_s)


def _tried(condition: Callable[[], T | None]) -> tuple[T | None, Exception | None]:
    try:
        return condition(), None
    except Exception as raised:
        return None, raised


def _too_late(what: str, timeout_s: float, value: object, error: Exception | None) -> AssertionError:
    last = f"it last raised {error!r}" if error is not None else f"it last gave {value!r}"
    return AssertionError(f"waited {timeout_s:g} s in vain for {what}; {last}")
