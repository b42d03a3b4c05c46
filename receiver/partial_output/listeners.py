"""Listeners to the partial output of jobs. New records, changes in the read model and the process's stop wake them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from backstop.runtime.authority import Authority
from backstop.runtime.errors import BackstopError
from backstop.runtime.process.clock import monotonic_s
from receiver.limits import Limits
from receiver.lookups import ReadsAwayError
from receiver.partial_output.history import Histories, JobHistory
from receiver.problems import reads_away, unavailable
from schemas.partials import PartialOutput

POLL_AGAIN_S = 15.0
"""Interval at which a listener reads the read model even without a change."""

POLL_BLIND_S = 1.0
"""The same once the feed of changes has ended."""


class TooManyListenersError(BackstopError):
    """The process serves its limit of streams. Transient: try again."""


class Watch(Protocol):
    """Changes of one job in the read model."""

    async def changed(self, timeout_s: float) -> bool:
        """Wait for the next change, at most `timeout_s`. False if no further changes will be reported."""

    @property
    def over(self) -> bool:
        """Whether this listener must be disconnected: its key is no longer valid, or its place was given to another."""


class Changes(Protocol):
    def watch(
        self, tenant: str, job_id: str, authority: Authority, *, end_only: bool = False
    ) -> AbstractAsyncContextManager[Watch]:
        """Reports changes of the job while it is open; with `end_only` only its end, without the limit on streams (the
        caller limits their number).

        :raises TooManyListenersError: try another process, or later.
        :raises ReadsAwayError: the read model is not reachable.
        """


class LiveMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.listeners = Gauge("backstop_output_listeners", "Clients that listen to partial output.", registry=registry)
        self.left = Counter(
            "backstop_output_listeners_left", "Listeners that were closed, by reason.", ["reason"], registry=registry
        )
        self.kept_bytes = Gauge("backstop_partials_kept_bytes", "Partial output in memory.", registry=registry)
        self.records = Counter(
            "backstop_partials_read", "Records of partial output, by result.", ["result"], registry=registry
        )


class Listener:
    """Gives access to the history of one job, and waits for news."""

    def __init__(self, live: "Live", tenant: str, job_id: str) -> None:
        self._live = live
        self._tenant = tenant
        self._job_id = job_id
        self._woken = asyncio.Event()
        self._poll = True
        self.stopped = False
        """The process stops, or the stream must end: the client may reconnect."""
        self.dismissed = False
        """The key is no longer valid, or the place was given to another listener: nothing more is sent."""

    @property
    def history(self) -> JobHistory | None:
        return self._live.histories.get(self._job_id, self._tenant)

    def wake(self) -> None:
        self._woken.set()

    def must_poll(self) -> bool:
        """Whether the read model may have changed since the last call."""
        poll, self._poll = self._poll, False
        return poll

    async def wait(self, timeout_s: float) -> bool:
        """Wait for news. False if none came within `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        woken = self._woken.is_set()
        self._woken.clear()
        return woken

    async def follow_changes(self, watch: Watch) -> None:
        while await watch.changed(POLL_AGAIN_S):
            self._poll = True
            self.wake()
        while not watch.over:
            self._poll = True
            self.wake()
            await asyncio.sleep(POLL_BLIND_S)
        self.dismissed = True
        self.wake()


class Live:
    """One instance per process, used from its event loop only."""

    def __init__(self, changes: Changes, limits: Limits, registry: CollectorRegistry) -> None:
        self.histories = Histories(limits.partials_bytes_max, limits.partials_keep_s)
        self.metrics = LiveMetrics(registry)
        self._changes = changes
        self._listeners: dict[str, set[Listener]] = {}
        self._stopped = False
        self.caught_up = False
        """Whether the records that were in the topic at the start have been read. Until then missing events may follow.
        """

    def take(self, partial: PartialOutput) -> None:
        self.histories.take(partial, monotonic_s())
        self.metrics.kept_bytes.set(self.histories.size_bytes)
        for listener in self._listeners.get(partial.job_id, ()):
            listener.wake()

    def stop(self) -> None:
        """Disconnect all listeners and refuse new ones: the process stops."""
        self._stopped = True
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.stopped = True
                listener.wake()

    @asynccontextmanager
    async def listen(self, tenant: str, job_id: str, authority: Authority) -> AsyncIterator[Listener]:
        """A listener to a job of `tenant`, while this is open. Errors: see `Changes.watch`."""
        async with self._changes.watch(tenant, job_id, authority) as watch:
            listener = Listener(self, tenant, job_id)
            listener.stopped = self._stopped
            self._listeners.setdefault(job_id, set()).add(listener)
            self.metrics.listeners.inc()
            following = asyncio.create_task(listener.follow_changes(watch))
            try:
                yield listener
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                self.metrics.listeners.dec()
                self._listeners[job_id].discard(listener)
                if not self._listeners[job_id]:
                    del self._listeners[job_id]


@asynccontextmanager
async def listening(
    live: Live, tenant: str, job_id: str, limits: Limits, authority: Authority
) -> AsyncIterator[Listener]:
    """As `Live.listen`, with its errors as refusals.

    :raises Refusal: 503.
    """
    try:
        async with live.listen(tenant, job_id, authority) as listener:
            yield listener
    except TooManyListenersError as error:
        raise unavailable("too_many_streams", f"{error}. Try again later.", limits.retry_after_s) from None
    except ReadsAwayError:
        raise reads_away(limits.retry_after_s) from None
