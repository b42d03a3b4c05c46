"""A poller against a real HTTP server, with a group in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prometheus_client import CollectorRegistry

from backstop.runtime.blobs import Bodies, FolderBlobs
from backstop.runtime.kafka.reporting import Reporting
from backstop.runtime.process.clock import NowMs
from schemas.commands import CancelResponse, PollReason, RetrieveResponse
from streams.policy.polls import PollPolicy, Webhooks
from streams.workers.access import ProviderAccess
from streams.workers.command_worker import WorkerParts
from streams.workers.lanes import Lanes
from streams.workers.limits import PollerLimits
from streams.workers.metrics import WorkerMetrics
from streams.workers.poller import Poller
from streams.workers.rate import PollRate
from tests.support.accounts import account_at, provider_of
from tests.support.memory_publisher import MemoryPublisher
from tests.support.waiting import eventually
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.memory_commands import MemoryCommands
from tests.unit.streams.workers.misbehaving import RESPONSE_ID, Mischief, Server, serving

NOW_MS = 1_795_341_600_000


RUNNING = server.answer(200, server.response(status="in_progress"))


DONE = server.answer(200, server.completed())


def poll(response_id: str = RESPONSE_ID, reason: PollReason = "timer", number: int = 1) -> RetrieveResponse:
    return RetrieveResponse(
        id=f"{response_id}/poll/{number}", at_ms=NOW_MS, response_id=response_id, reason=reason, job_id="job_1",
        accepted_at_ms=NOW_MS - 60_000, polls=number,
    )  # fmt: skip


def cancel(response_id: str = RESPONSE_ID) -> CancelResponse:
    return CancelResponse(id=f"{response_id}/cancel", at_ms=NOW_MS, response_id=response_id, job_id="job_1")


def any_response(status: str = "in_progress") -> Callable[[Server], Mischief]:
    """An answer with the id that was asked for."""

    def of(state: Server) -> Mischief:
        async def send(writer: asyncio.StreamWriter) -> None:
            response_id = state.requests[-1].path.split("/")[3]
            await server.answer(200, server.response(id=response_id, status=status))(writer)

        return send

    return of


@dataclass
class Bench:
    commands: MemoryCommands
    publisher: MemoryPublisher
    server: Server
    blobs: FolderBlobs
    registry: CollectorRegistry
    rate: PollRate
    stop: asyncio.Event
    run: "asyncio.Task[None]"

    async def facts(self, count: int, timeout_s: float = 8) -> list[Any]:
        await eventually(lambda: len(self.publisher.acked) >= count, timeout_s, f"{count} facts")
        return self.publisher.landed

    @property
    def asked(self) -> list[str]:
        return [f"{request.method} {request.path.removeprefix('/v1/responses/')}" for request in self.server.requests]

    def counted(self, result: str) -> float:
        return self.registry.get_sample_value("backstop_polls_total", {"result": result}) or 0.0


@asynccontextmanager
async def calling(
    tmp_path: Path,
    *script: Mischief,
    commands: MemoryCommands | None = None,
    cap_per_s: float = 1_000.0,
    poll_timeout_ms: int = 1_000,
    blobs: FolderBlobs | None = None,
    provider_options: Mapping[str, Any] = MappingProxyType({}),
    inline_bytes_max: int = 65_536,
    polls: Webhooks | None = None,
    now_ms: NowMs = lambda: NOW_MS,
    **limits: Any,
) -> AsyncIterator[Bench]:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    commands = commands or MemoryCommands()
    publisher, blobs, stop = MemoryPublisher(), blobs or FolderBlobs(tmp_path), asyncio.Event()
    loop = asyncio.get_running_loop()
    rate = PollRate(cap_per_s, lambda: int(loop.time() * 1_000), metrics.poll_rate_limit.set)
    async with serving(*(script or (RUNNING,))) as state:
        provider = provider_of(
            account_at(state.base_url), now_ms, metrics, poll_timeout_ms=poll_timeout_ms, **provider_options
        )
        parts = WorkerParts(
            ProviderAccess(provider, Lanes(lambda: NOW_MS), rate),
            Reporting(publisher, metrics, now_ms),
            Bodies(blobs, inline_bytes_max),
            polls or Webhooks(PollPolicy()),
        )
        poller = Poller(commands, parts, PollerLimits(**{"drain_ms": 2_000, "repeat_ms": 20, **limits}))
        run = asyncio.create_task(poller.run(stop))
        try:
            yield Bench(commands, publisher, state, blobs, registry, rate, stop, run)
        finally:
            stop.set()
            await asyncio.gather(run, return_exceptions=True)
            await provider.close()
