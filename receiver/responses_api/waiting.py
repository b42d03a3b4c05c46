"""Creates that wait for their answer on their connection, as those of most callers do: without `background`.

Rules, before the code:
- The job is a job like any other, taken before anybody waits. Whoever leaves stops nothing.
- For the first `waiting_quiet_s` nothing is sent, so that an end that is no answer has its own HTTP status. After that status 200 and a space every
  `waiting_heartbeat_s` are sent, so that no proxy takes the connection for idle; JSON may begin with spaces. An end that is no answer then cuts
  the connection off inside its body: every client takes that for an error and none for an answer, and the repeat hears the true status at once.
- Who waits is woken by changes of its job in the read model; nobody polls.
- Places are bounded. A tenant may hold up to four times as many as are free, so that some are left for whoever comes.
- It goes on for as long as its key is valid, and hears nothing more after that. The job goes on.
- A create whose connection is gone before its answer waits for its repeat: the next one with an equal body from the same key is that repeat, whether or
  not it says so. One whose connection is there is never given to another call.
"""

import asyncio
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
from receiver.limits import Limits
from receiver.lookups import ReadsAwayError
from receiver.partial_output.listeners import POLL_AGAIN_S, POLL_BLIND_S, Changes, TooManyListenersError, Watch
from receiver.problems import SECURITY_HEADERS, Refusal, unavailable
from receiver.responses_api.responses import Responses, Shown
from schemas.job_ids import qualified_job_id

GREED: Final = 4
"""A tenant holds so many times as many places as are free, at most: alone four fifths of all, beside another one less."""

FORGOTTEN_AT_ONCE: Final = 100

RESPONSE_ID: Final = "Backstop-Response-Id"

Who = tuple[str, str, str]
"""Tenant, key and hash of the body."""


@dataclass(slots=True, eq=False)
class Waiter:
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
        """Whether nobody is there any more to hear the answer."""
        transport = self.request.transport
        return transport is None or transport.is_closing()


class Waiting:
    """One a process. All calls in its loop."""

    def __init__(self, changes: Changes, responses: Responses, limits: Limits, registry: CollectorRegistry) -> None:
        self._changes = changes
        self._responses = responses
        self._limits = limits
        self._shares = Shares(limits.waiting_creates_max, GREED)
        self._waiters: dict[Who, list[Waiter]] = {}
        self._left: dict[Waiter, None] = {}
        self._stopped = asyncio.Event()
        self._places = Gauge("backstop_waiting_creates", "Creates that wait for their answer.", registry=registry)
        self._ends = Counter(
            "backstop_waiting_creates_ended", "Creates that waited for their answer, by what became of it.", ["result"],
            registry=registry,
        )  # fmt: skip

    def stop(self) -> None:
        """Let all go; there will be no more."""
        self._stopped.set()

    @contextmanager
    def place(self, tenant: str) -> Iterator[None]:
        """Held before the job is taken: without one nothing is promised.

        :raises Refusal: 503, as many wait as may.
        """
        owner = (tenant,)
        if self._stopped.is_set() or not self._shares.ask_sparing(owner):
            self._ends.labels("refused").inc()
            raise unavailable(
                "too_many_waiting",
                f"{self._shares.held(owner)} creates of this tenant wait for their answers here, and more may not. Ask again, or send "
                "background: true and poll GET /v1/responses/{id}.",
                self._limits.retry_after_s,
            )
        self._places.inc()
        try:
            yield
        finally:
            self._places.dec()
            self._shares.give_back(owner)

    def abandoned(self, who: Who) -> str | None:
        """The response of an equal create whose caller is gone without its answer. It is given once."""
        now_s = monotonic_s()
        self._forget_old(now_s)
        for waiter in self._waiters.get(who, ()):
            if waiter.gone:
                self._forget(waiter)
                return waiter.response_id
        return None

    async def answer(
        self, waiter: Waiter, headers: dict[str, str], finished: Callable[[Shown], web.Response]
    ) -> web.StreamResponse:
        """Wait for the end of the response, and answer with what `finished` makes of it.

        :raises Refusal: 401, the key ended meanwhile and nothing was sent yet.
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
        self, waiter: Waiter, headers: dict[str, str], finished: Callable[[Shown], web.Response]
    ) -> tuple[str, web.StreamResponse]:
        limits, request = self._limits, waiter.request
        sending = web.StreamResponse(
            headers={**SECURITY_HEADERS, "Content-Type": JSON, "X-Accel-Buffering": "no", **headers}
        )
        began_s = monotonic_s()
        speak_at_s = began_s + limits.waiting_quiet_s
        async with self._watching(waiter) as changed:
            while True:
                shown = await self._ended(waiter)
                if not waiter.authority.still():
                    if not sending.prepared:
                        raise Refusal(UNAUTHENTICATED)
                    return _cut(request, sending, "not_allowed")
                if shown is not None:
                    break
                now_s = monotonic_s()
                if self._stopped.is_set() or waiter.gone or now_s - began_s >= limits.waiting_s_max:
                    return _cut(request, sending)
                if now_s >= speak_at_s:
                    speak_at_s = now_s + limits.waiting_heartbeat_s
                    if not await self._write(request, sending, b" "):
                        return _cut(request, sending)
                await changed(speak_at_s - now_s)
        response = finished(shown)
        if not sending.prepared:
            response.headers.update(headers)
            return "answered", response
        assert isinstance(response.body, bytes)
        if response.status != HTTPStatus.OK or not await self._write(request, sending, response.body):
            return _cut(request, sending)
        return "answered", sending

    async def _ended(self, waiter: Waiter) -> Shown | None:
        try:
            return await self._responses.ended(waiter.who[0], waiter.response_id)
        except (ReadsAwayError, BlobStoreError):
            return None  # the job goes on, and so does the wait

    async def _write(self, request: web.Request, sending: web.StreamResponse, data: bytes) -> bool:
        """False: the caller is gone, or takes nothing."""
        try:
            async with asyncio.timeout(self._limits.stream_write_s):
                if not sending.prepared:
                    await sending.prepare(request)
                await sending.write(data)
        except (ConnectionError, TimeoutError):
            return False
        return True

    @asynccontextmanager
    async def _watching(self, waiter: Waiter) -> AsyncIterator[Callable[[float], Awaitable[None]]]:
        """A function that waits for the end of the job to be told of, for so many seconds at most."""
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

    def _leave(self, waiter: Waiter) -> None:
        waiter.left_at_s = monotonic_s()
        self._left[waiter] = None
        while len(self._left) > self._limits.repeats_remembered_max:
            self._forget(next(iter(self._left)))

    def _forget(self, waiter: Waiter) -> None:
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


def _cut(request: web.Request, sending: web.StreamResponse, result: str = "cut") -> tuple[str, web.StreamResponse]:
    """End the connection without an end of the answer: what was sent is no JSON."""
    if request.transport is not None:
        request.transport.close()
    return result, sending
