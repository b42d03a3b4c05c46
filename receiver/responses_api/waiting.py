"""Creates without `background`, the most common ones: they wait on their connection until the response has ended.

Rules:
- The job is submitted before the wait. A client that disconnects does not cancel it.
- For the first `waiting_quiet_s` nothing is sent, so that a failed response can have its own HTTP status. After that,
  status 200 and a space every `waiting_heartbeat_s` are sent, so that no proxy closes the connection as idle; JSON may
  start with spaces. If the response then fails, the connection is closed inside the body: clients treat that as an
  error, and their repeat gets the real status at once.
- A change of the job in the read model wakes its waiter. Without a feed of changes, waiters poll.
- Places are bounded. A tenant may hold up to `GREED` times as many as are free, so that some are left for other
  tenants.
- A wait ends when its key becomes invalid. The job continues.
- If the connection is lost before the answer, the next create with an equal body from the same key counts as the
  repeat, with or without a retry header. A create that is still connected is never matched with another call.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge

from backstop.runtime.authority import Authority, authority_of
from backstop.runtime.errors import BlobStoreError
from backstop.runtime.http.routes import JSON
from backstop.runtime.process.clock import monotonic_s
from backstop.runtime.shares import Shares
from receiver.access.identity import UNAUTHENTICATED
from receiver.answers import write_pieces
from receiver.limits import Limits
from receiver.lookups import ReadsAwayError
from receiver.partial_output.listeners import POLL_AGAIN_S, POLL_BLIND_S, Changes, TooManyListenersError, Watch
from receiver.problems import SECURITY_HEADERS, Refusal, unavailable
from receiver.responses_api.responses import Responses, ShownResponse
from schemas.job_ids import qualified_job_id

GREED: Final = 4
"""A tenant holds at most this many times as many places as are free: alone four fifths of all, with others less."""

FORGOTTEN_AT_ONCE: Final = 100

RESPONSE_ID: Final = "Backstop-Response-Id"

Who = tuple[str, str, str]
"""Tenant, key id and hash of the submission."""


@dataclass(slots=True, eq=False)
class WaitingConnection:
    """One connection that waits for one response."""

    request: web.Request
    who: Who
    response_id: str
    left_at_s: float | None = None

    @property
    def authority(self) -> Authority:
        return authority_of(self.request)

    @property
    def gone(self) -> bool:
        """Whether the client has disconnected."""
        transport = self.request.transport
        return transport is None or transport.is_closing()


class WaitingCreates:
    """One instance per process, used from its event loop only."""

    def __init__(self, changes: Changes, responses: Responses, limits: Limits, registry: CollectorRegistry) -> None:
        self._changes = changes
        self._responses = responses
        self._limits = limits
        self._shares = Shares(limits.waiting_creates_max, GREED)
        self._waiters: dict[Who, list[WaitingConnection]] = {}
        self._left: dict[WaitingConnection, None] = {}
        self._stopped = asyncio.Event()
        self._places = Gauge("backstop_waiting_creates", "Creates that wait for their answer.", registry=registry)
        self._ends = Counter(
            "backstop_waiting_creates_ended", "Creates that waited for their answer, by result.", ["result"],
            registry=registry,
        )  # fmt: skip

    def stop(self) -> None:
        """End all waits, and refuse new ones: the process stops."""
        self._stopped.set()

    @contextmanager
    def place(self, tenant: str) -> Iterator[None]:
        """Reserve a place for one wait; to be entered before the job is submitted.

        :raises Refusal: 503, no place is free for this tenant.
        """
        owner = (tenant,)
        if self._stopped.is_set() or not self._shares.ask_sparing(owner):
            self._ends.labels("refused").inc()
            raise unavailable(
                "too_many_waiting",
                f"{self._shares.held(owner)} creates of this tenant wait for their answers, the limit at the moment. "
                "Send it again later, or send background: true and poll GET /v1/responses/{id}.",
                self._limits.retry_after_s,
            )
        self._places.inc()
        try:
            yield
        finally:
            self._places.dec()
            self._shares.give_back(owner)

    def abandoned(self, who: Who) -> str | None:
        """The response id of an equal create whose client disconnected before its answer; each is returned once."""
        now_s = monotonic_s()
        self._forget_old(now_s)
        for waiter in self._waiters.get(who, ()):
            if waiter.gone:
                self._forget(waiter)
                return waiter.response_id
        return None

    async def answer(
        self, waiter: WaitingConnection, headers: dict[str, str], finished: Callable[[ShownResponse], web.Response]
    ) -> web.StreamResponse:
        """Wait for the response to end, and answer with what `finished` makes of it.

        :raises Refusal: 401, the key became invalid before anything was sent.
        """
        self._waiters.setdefault(waiter.who, []).append(waiter)
        result = "failed"
        try:
            result, response = await self._answer(waiter, {**headers, RESPONSE_ID: waiter.response_id}, finished)
        except Refusal:
            result = "not_allowed"
            raise
        finally:
            if waiter.gone or result == "cut":
                result = "left" if result == "answered" else result
                self._leave(waiter)
            else:
                self._forget(waiter)
            self._ends.labels(result).inc()
        return response

    async def _answer(
        self, waiter: WaitingConnection, headers: dict[str, str], finished: Callable[[ShownResponse], web.Response]
    ) -> tuple[str, web.StreamResponse]:
        limits, request = self._limits, waiter.request
        sending = web.StreamResponse(
            headers={**SECURITY_HEADERS, "Content-Type": JSON, "X-Accel-Buffering": "no", **headers}
        )
        began_s = monotonic_s()
        speak_at_s = began_s + limits.waiting_quiet_s
        async with self._watching(waiter) as changed:
            while True:
                shown, look_s = None, math.inf
                try:
                    shown = await self._responses.ended(waiter.who[0], waiter.response_id)
                except (ReadsAwayError, BlobStoreError, Refusal):
                    # The log has the job: keep waiting. Its end may be there, so look again soon.
                    look_s = POLL_BLIND_S
                if not waiter.authority.still():
                    if not sending.prepared:
                        raise Refusal(UNAUTHENTICATED)
                    return _ended_early(request, sending, "not_allowed")
                if shown is not None:
                    break
                now_s = monotonic_s()
                if self._stopped.is_set() or waiter.gone or now_s - began_s >= limits.waiting_s_max:
                    return _ended_early(request, sending)
                if now_s >= speak_at_s:
                    speak_at_s = now_s + limits.waiting_heartbeat_s
                    if not await self._write(request, sending, b" "):
                        return _ended_early(request, sending)
                await changed(min(look_s, speak_at_s - now_s))
        response = finished(shown)
        if not sending.prepared:
            response.headers.update(headers)
            return "answered", response
        assert isinstance(response.body, bytes)
        if response.status != HTTPStatus.OK or not await self._write(request, sending, response.body):
            return _ended_early(request, sending)
        return "answered", sending

    async def _write(self, request: web.Request, sending: web.StreamResponse, data: bytes) -> bool:
        """False if the client has disconnected or does not read."""
        try:
            async with asyncio.timeout(self._limits.stream_write_s):
                if not sending.prepared:
                    await sending.prepare(request)
            await write_pieces(sending.write, data, self._limits.stream_write_s)
        except (ConnectionError, TimeoutError):
            return False
        return True

    @asynccontextmanager
    async def _watching(self, waiter: WaitingConnection) -> AsyncIterator[Callable[[float], Awaitable[None]]]:
        """A function that waits for news of the job's end, for the given seconds at most."""
        tenant, job_id = waiter.who[0], qualified_job_id(waiter.who[0], waiter.response_id)
        watch: Watch | None = None
        async with AsyncExitStack() as stack:

            async def begin() -> None:
                nonlocal watch
                await stack.aclose()
                with suppress(ReadsAwayError, TooManyListenersError):
                    watch = await stack.enter_async_context(
                        self._changes.watch(tenant, job_id, waiter.authority, end_only=True)
                    )

            async def changed(timeout_s: float) -> None:
                nonlocal watch
                if watch is None:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(min(timeout_s, POLL_BLIND_S)):
                            await self._stopped.wait()
                    await begin()
                elif not await watch.changed(min(timeout_s, POLL_AGAIN_S)):
                    watch = None

            await begin()
            yield changed

    def _leave(self, waiter: WaitingConnection) -> None:
        waiter.left_at_s = monotonic_s()
        self._left[waiter] = None
        while len(self._left) > self._limits.repeats_remembered_max:
            self._forget(next(iter(self._left)))

    def _forget(self, waiter: WaitingConnection) -> None:
        self._left.pop(waiter, None)
        waiters = self._waiters.get(waiter.who, [])
        if waiter in waiters:
            waiters.remove(waiter)
        if not waiters:
            self._waiters.pop(waiter.who, None)

    def _forget_old(self, now_s: float) -> None:
        for waiter in list(islice(self._left, FORGOTTEN_AT_ONCE)):
            if waiter.left_at_s is None or now_s - waiter.left_at_s <= self._limits.repeat_window_s:
                return
            self._forget(waiter)


def _ended_early(
    request: web.Request, sending: web.StreamResponse, result: str = "cut"
) -> tuple[str, web.StreamResponse]:
    """Close the connection inside the body: the client must not take it for a complete answer."""
    if request.transport is not None:
        request.transport.close()
    return result, sending
