"""Copies one response's stream from the provider to the topic `partials`, in small records; reopens it after a drop.

The job does not depend on it. Events that can't be read or published are counted and left out; the records' numbers
show the gap.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import structlog

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.kafka.reporting import Reporting
from schemas.base import Message, Usage
from schemas.jobs import UsageBooked
from schemas.partials import PartialOutput, TruncationReason
from streams.provider import (
    AskAgain,
    Dropped,
    NotStreamable,
    OpenAgain,
    Refused,
    StreamEnded,
    StreamStep,
    Told,
    TooMuch,
)
from streams.workers.access import ProviderAccess
from streams.workers.limits import FollowLimits
from streams.workers.metrics import FollowerMetrics

log = structlog.get_logger()

OPEN_AGAIN_MS = 250
"""Wait after a drop, doubled for each further connection in a row without an event. The turns of the global rate spread
streams that were dropped together."""

OPEN_AGAIN_MS_MAX = 30_000
RECORD_BYTES_MAX = 256 * 1024
"""Of events in one record: well below a topic's limit, and small enough to be passed on at once."""

PENDING_BYTES_MAX = 1 << 20
"""Of events that wait for the broker; beyond it reading of the provider's stream pauses."""

BYTES_PER_TOKEN = 4
"""Of text: the provider's rule of thumb (its help page on tokens: about four characters)."""

PUBLISH_S = 5.0
PUBLISH_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Followed:
    """A running response whose stream is to be followed."""

    response_id: str
    job_id: str
    attempt: int
    tenant: str
    partition: int
    """Of the log of responses; its owner follows the stream."""


@dataclass(frozen=True, slots=True)
class _Over:
    """How the stream ended: with the provider's terminal event, or truncated. Both None: nothing more can be read."""

    end_number: int | None = None
    truncated: TruncationReason | None = None


class Following:
    """Follows one response until its stream ends, or the task is cancelled."""

    def __init__(
        self,
        of: Followed,
        access: ProviderAccess,
        reporting: Reporting[FollowerMetrics],
        limits: FollowLimits,
    ) -> None:
        self._of = of
        self._rate = access.rate
        self._publisher = reporting.publisher
        self._metrics = reporting.metrics
        self._now_ms = reporting.now_ms
        self._limits = limits
        self._stream = access.provider.follow(
            of.response_id, event_bytes_max=limits.event_bytes_max, response_bytes_max=limits.response_bytes_max
        )
        self._pending: deque[Told] = deque()
        self._pending_bytes = 0
        self._told = -1
        """The number of the last event in a record; -1 before the first."""
        self._over: _Over | None = None
        self._seen_bytes = 0
        """Bytes of output seen, each counted once."""
        self._more, self._room = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tell_all())
            self._over = await self._read_all()
            self._more.set()

    async def book(self) -> None:
        """Book the output that was seen of a cancelled response, as the provider reports no usage for it."""
        tokens = -(-self._seen_bytes // BYTES_PER_TOKEN)
        if not tokens:
            return
        of = self._of
        await self._publish(
            UsageBooked(
                id=f"{of.response_id}/usage/seen",
                at_ms=self._now_ms(),
                job_id=of.job_id,
                tenant=of.tenant,
                attempt=of.attempt,
                response_id=of.response_id,
                usage=Usage(output_tokens=tokens, total_tokens=tokens),
                estimated=True,
            )
        )

    async def _read_all(self) -> _Over:
        in_vain = 0
        while True:
            before = self._stream.last
            await self._rate.spare_turn()
            outcome = await self._read_once()
            if isinstance(outcome, _Over):
                return outcome
            in_vain = 0 if self._stream.last > before else in_vain + 1
            wait_ms = min(OPEN_AGAIN_MS << min(in_vain, 16), OPEN_AGAIN_MS_MAX)
            await asyncio.sleep(max(wait_ms, outcome) / 1_000)

    async def _read_once(self) -> _Over | int:
        """Read one connection. Returns how the stream ended, or the least wait in ms before the next connection."""
        try:
            async with self._stream.opened() as opened:
                if isinstance(opened, AsyncIterator):
                    return await self._read_events(opened)
                return self._refused(opened)
        except Exception as error:
            # Any failure of the network or the server counts as a drop.
            self._metrics.lost(type(error).__name__)
            return 0

    async def _read_events(self, steps: AsyncIterator[StreamStep]) -> _Over | int:
        self._metrics.open.inc()
        try:
            async for step in steps:
                match step:
                    case Told():
                        self._seen_bytes += _output_bytes(step.event)
                        await self._put(step)
                    case Dropped():
                        self._metrics.event(step.why)
                    case OpenAgain():
                        self._metrics.lost(step.why)
                        return 0
                    case StreamEnded():
                        return _Over(end_number=step.number)
                    case TooMuch():
                        return self._truncated(step.why)
        finally:
            self._metrics.open.dec()
        self._metrics.lost("ended_early")
        return 0

    def _refused(self, answer: NotStreamable | AskAgain | Refused) -> _Over | int:
        match answer:
            case NotStreamable():
                return self._truncated("not_streamable")
            case Refused():
                self._metrics.lost("refused")
                return _Over()
            case AskAgain():
                if answer.limited:
                    self._rate.object_spare(answer.wait_ms)
                self._metrics.lost("not_opened")
                return answer.wait_ms

    def _truncated(self, why: TruncationReason) -> _Over:
        self._metrics.truncated(why)
        log.info("stream_truncated", response_id=self._of.response_id, job_id=self._of.job_id, reason=why)
        return _Over(truncated=why)

    async def _put(self, told: Told) -> None:
        self._metrics.event("told")
        while self._pending_bytes >= PENDING_BYTES_MAX:
            self._room.clear()
            await self._room.wait()
        self._pending.append(told)
        self._pending_bytes += told.size_bytes
        self._more.set()

    async def _tell_all(self) -> None:
        while True:
            await self._more.wait()
            if self._over is None:
                await asyncio.sleep(self._limits.coalesce_ms / 1_000)
            self._more.clear()
            while self._pending:
                await self._publish(self._next_record())
            if self._over is not None:
                if self._over != _Over():
                    await self._publish(self._record((), self._over))
                return

    def _next_record(self) -> PartialOutput:
        events: list[dict[str, Any]] = []
        size_bytes = 0
        while self._pending and (not events or size_bytes + self._pending[0].size_bytes <= RECORD_BYTES_MAX):
            told = self._pending.popleft()
            events.append(told.event)
            size_bytes += told.size_bytes
        self._pending_bytes -= size_bytes
        self._room.set()
        return self._record(tuple(events), _Over())

    def _record(self, events: tuple[dict[str, Any], ...], over: _Over) -> PartialOutput:
        of, after = self._of, self._told
        if events:
            self._told = events[-1]["sequence_number"]
        return PartialOutput(
            id=f"{of.response_id}/partial/{after}-{self._told}{'/over' if not events else ''}",
            at_ms=self._now_ms(),
            job_id=of.job_id,
            tenant=of.tenant,
            attempt=of.attempt,
            response_id=of.response_id,
            after=after,
            events=events,
            end_number=over.end_number,
            truncated=over.truncated,
        )

    async def _publish(self, record: Message) -> None:
        while True:
            try:
                return await self._publisher.publish([record], timeout_s=PUBLISH_S)
            except BrokerUnavailableError:
                self._metrics.unpublished.inc()
                await asyncio.sleep(PUBLISH_AGAIN_S)


def _output_bytes(event: dict[str, Any]) -> int:
    delta = event.get("delta")
    return (
        len(delta.encode(errors="replace"))
        if str(event.get("type", "")).endswith(".delta") and isinstance(delta, str)
        else 0
    )
