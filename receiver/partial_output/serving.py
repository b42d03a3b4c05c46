"""Sends the server-sent events of one listener; shared by `/v1/jobs` and `/v1/responses`."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar

from aiohttp import web

from receiver.answers import write_pieces
from receiver.failures import log_failure
from receiver.limits import Limits
from receiver.partial_output.history import JobHistory
from receiver.partial_output.listeners import Listener, LiveMetrics

WRITE_BYTES = 64 * 1024
"""Frames are gathered up to this size before they are written."""

E = TypeVar("E")
Ended_contra = TypeVar("Ended_contra", contravariant=True)


class View(Protocol, Generic[Ended_contra]):
    """What one listener gets. It keeps the listener's position."""

    def pending(self, history: JobHistory) -> Iterator[bytes]:
        """The frames after the listener's position. Taking a frame from the iterator advances the position."""

    def is_complete(self, history: JobHistory | None) -> bool:
        """Whether only the end is still to be sent."""

    def end(self, ended: Ended_contra, history: JobHistory | None) -> bytes:
        """The last frames."""


async def serve_events(
    request: web.Request, listener: Listener, view: View[E], poll: Callable[[], Awaitable[E | None]],
    limits: Limits, metrics: LiveMetrics, first: bytes = b"", *, recent: Callable[[E], bool],
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:  # fmt: skip
    """Answer `request` with `first`, then the frames of `view`, until `poll` finds the end in the read model.

    Partial output may lag behind the end: after a `recent` end, missing frames are awaited for `limits.stream_tail_s`.
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
        pass  # the client disconnected
    except Exception as error:
        # An answer has begun: the client would read an error as part of it.
        log_failure(error, method=request.method)
        reason = "failed"
    finally:
        metrics.left.labels(reason).inc()
    return response


def is_recent(finished_at_ms: int, now_ms: int, limits: Limits) -> bool:
    """Whether the last partial output of a job may still arrive."""
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
    await write_pieces(response.write, data, limits.stream_write_s)
