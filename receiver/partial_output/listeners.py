"""Who listens to which job's partial output, and what wakes them: new records, a change in the read model, the end of the process."""

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
from receiver.problems import Refusal, unavailable
from schemas.partials import PartialOutput

POLL_AGAIN_S = 15.0
"""A listener looks at the read model so often even if nothing was said to have changed there."""

POLL_BLIND_S = 1.0
"""And so often once nobody tells it of changes any more."""


class TooManyListenersError(BackstopError):
    """Passing: the process serves as many streams as it may."""


class Watch(Protocol):
    """Changes of one job in the read model."""

    async def changed(self, timeout_s: float) -> bool:
        """Wait for the next one, for `timeout_s` at most. False: no further one will be told of."""

    @property
    def over(self) -> bool:
        """Whether this listener must leave: its key is not valid any more, or its place is another's."""


class Changes(Protocol):
    def watch(
        self, tenant: str, job_id: str, authority: Authority, *, end_only: bool = False
    ) -> AbstractAsyncContextManager[Watch]:
        """What changes while this is open is told; with `end_only` the end alone, to as many as whoever asks admits.

        :raises TooManyListenersError: ask another process, or later.
        :raises ReadsAwayError: the read model can't be asked at the moment.
        """


class LiveMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.listeners = Gauge("backstop_output_listeners", "Who listens to partial output.", registry=registry)
        self.left = Counter(
            "backstop_output_listeners_left", "Listeners that are gone, by reason.", ["reason"], registry=registry
        )
        self.kept_bytes = Gauge(
            "backstop_partials_kept_bytes", "Partial output in memory, for whoever comes.", registry=registry
        )
        self.records = Counter("backstop_partials_read", "Records of partial output.", ["result"], registry=registry)


class Listener:
    """Reads the history of one job, and waits for more."""

    def __init__(self, live: "Live", tenant: str, job_id: str) -> None:
        self._live = live
        self._tenant = tenant
        self._job_id = job_id
        self._woken = asyncio.Event()
        self._poll = True
        self.stopped = False
        """The process ends: let the client come back elsewhere."""
        self.dismissed = False
        """Its key is not valid any more, or its place is another's: it gets nothing more."""

    @property
    def history(self) -> JobHistory | None:
        return self._live.histories.get(self._job_id, self._tenant)

    def wake(self) -> None:
        self._woken.set()

    def must_poll(self) -> bool:
        """Whether the read model may have something new since the last time this was asked."""
        poll, self._poll = self._poll, False
        return poll

    async def wait(self, timeout_s: float) -> bool:
        """For something new. False: nothing came within `timeout_s`."""
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
    """One a process. All calls in its loop."""

    def __init__(self, changes: Changes, limits: Limits, registry: CollectorRegistry) -> None:
        self.histories = Histories(limits.partials_bytes_max, limits.partials_keep_s)
        self.metrics = LiveMetrics(registry)
        self._changes = changes
        self._listeners: dict[str, set[Listener]] = {}
        self._stopped = False
        self.caught_up = False
        """Whether what was on the topic when the process started has been read: until then, what is not here may still come."""

    def take(self, partial: PartialOutput) -> None:
        self.histories.take(partial, monotonic_s())
        self.metrics.kept_bytes.set(self.histories.size_bytes)
        for listener in self._listeners.get(partial.job_id, ()):
            listener.wake()

    def stop(self) -> None:
        """Let all listeners go; there will be no more."""
        self._stopped = True
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.stopped = True
                listener.wake()

    @asynccontextmanager
    async def listen(self, tenant: str, job_id: str, authority: Authority) -> AsyncIterator[Listener]:
        """A listener to a job of `tenant`'s, as long as this is open. Errors: see `Changes.watch`."""
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
    """As `Live.listen`, and what stands against it is the answer.

    :raises Refusal: 503.
    """
    try:
        async with live.listen(tenant, job_id, authority) as listener:
            yield listener
    except TooManyListenersError as error:
        raise unavailable("too_many_streams", f"{error}. Come back later.", limits.retry_after_s) from None
    except ReadsAwayError:
        raise reads_away(limits.retry_after_s) from None


def reads_away(retry_after_s: int) -> Refusal:
    return unavailable("reads_unavailable", "The read model is not reachable. Jobs go on; ask again.", retry_after_s)
