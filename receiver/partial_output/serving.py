"""One listener's server-sent events, from its first to its last: what both doors have in common."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar

from aiohttp import web

from receiver.failures import log_failure
from receiver.limits import Limits
from receiver.partial_output.history import JobHistory
from receiver.partial_output.listeners import Listener, LiveMetrics

WRITE_BYTES = 64 * 1024
"""Frames are put together up to this size before they are written."""

E = TypeVar("E")
Ended_contra = TypeVar("Ended_contra", contravariant=True)


class View(Protocol, Generic[Ended_contra]):
    """What one listener gets to see. It knows how far that is."""

    def pending(self, history: JobHistory) -> Iterator[bytes]:
        """The frames that are new to the listener. Each counts as sent once it was taken."""

    def is_complete(self, history: JobHistory | None) -> bool:
        """Whether nothing more than the end is to come."""

    def end(self, ended: Ended_contra, history: JobHistory | None) -> bytes:
        """The last frames."""


async def serve_events(
    request: web.Request, listener: Listener, view: View[E], poll: Callable[[], Awaitable[E | None]],
    limits: Limits, metrics: LiveMetrics, first: bytes = b"", *, recent: Callable[[E], bool],
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:  # fmt: skip
    """Answer `request` with `first`, then with what `view` shows, up to the end that `poll` finds in the read model.

    Partial output may be a little behind the end: where the end is `recent`, it is waited for, for `limits.stream_tail_s`.
    """
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
            "X-Content-Type-Options": "nosniff",
            **(headers or {}),
        }
    )
    reason = "gone"
    try:
        await response.prepare(request)
        await _write(response, first, limits)
        reason = await _follow(response, listener, view, poll, limits, recent)
    except TimeoutError:
        reason = "slow"
    except ConnectionError:
        pass  # the client went away; nobody else minds
    except Exception as error:
        # An answer has begun: another one would be read as a part of it.
        log_failure(error, method=request.method)
        reason = "failed"
    finally:
        metrics.left.labels(reason).inc()
    return response


def is_recent(finished_at_ms: int, now_ms: int, limits: Limits) -> bool:
    """Whether the last of its partial output may still be on its way."""
    return now_ms - finished_at_ms <= limits.stream_recent_s * 1000


async def _follow(
    response: web.StreamResponse, listener: Listener, view: View[E], poll: Callable[[], Awaitable[E | None]],
    limits: Limits, recent: Callable[[E], bool],
) -> str:  # fmt: skip
    loop = asyncio.get_running_loop()
    ended: E | None = None
    tail_until_s = loop.time()
    while not listener.dismissed:
        if ended is None and listener.must_poll():
            ended = await poll()
            if ended is not None and recent(ended):
                tail_until_s = loop.time() + limits.stream_tail_s
        history = listener.history
        if history is not None:
            await _write_all(response, view.pending(history), limits)
        if ended is not None and (view.is_complete(history) or loop.time() >= tail_until_s):
            await _write(response, view.end(ended, history), limits)
            return "ended"
        if listener.stopped:
            return "stopped"
        left_s = limits.stream_heartbeat_s if ended is None else max(0.0, tail_until_s - loop.time())
        if not await listener.wait(left_s) and ended is None:
            await _write(response, b": still here\n\n", limits)
    return "dismissed"


async def _write_all(response: web.StreamResponse, frames: Iterator[bytes], limits: Limits) -> None:
    gathered = bytearray()
    for frame in frames:
        gathered += frame
        if len(gathered) >= WRITE_BYTES:
            await _write(response, bytes(gathered), limits)
            gathered.clear()
    await _write(response, bytes(gathered), limits)


async def _write(response: web.StreamResponse, data: bytes, limits: Limits) -> None:
    if not data:
        return
    async with asyncio.timeout(limits.stream_write_s):
        await response.write(data)
