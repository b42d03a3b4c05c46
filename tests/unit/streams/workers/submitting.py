"""A submitter at work against a real HTTP server, with a group in memory."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prometheus_client import CollectorRegistry

from backstop.runtime.blobs import Bodies, FolderBlobs
from backstop.runtime.kafka.reporting import Reporting
from backstop.runtime.process.clock import NowMs
from schemas.base import InlineBody
from schemas.commands import CreateResponse
from schemas.lanes import CreateFact
from streams.early_creates import EarlyCreates
from streams.openai.provider import OpenAIProvider
from streams.policy.lanes import PROBE_WAIT_MS
from streams.policy.limits import NO_LIMITS, LimitRules
from streams.policy.polls import PollPolicy, Webhooks
from streams.workers.access import ProviderAccess
from streams.workers.command_worker import WorkerParts
from streams.workers.lanes import Lanes
from streams.workers.limits import SubmitterLimits
from streams.workers.metrics import WorkerMetrics
from streams.workers.pauses import Pauses
from streams.workers.rate import PollRate
from streams.workers.submitter import Submitter
from tests.support.accounts import account_at, provider_of
from tests.support.memory_publisher import MemoryPublisher
from tests.support.waiting import eventually
from tests.unit.streams.workers import misbehaving as server
from tests.unit.streams.workers.memory_commands import MemoryCommands
from tests.unit.streams.workers.misbehaving import Mischief, Server, serving

NOW_MS = 1_795_341_600_000
VALID_MS = 60_000
OK = server.answer(200, server.response(metadata={}))


def create(job_id: str = "job_1", attempt: int = 1, at_ms: int = NOW_MS, request: Any = None) -> CreateResponse:
    return CreateResponse(
        id=f"{job_id}/{attempt}/create", at_ms=at_ms, job_id=job_id, attempt=attempt, tenant="acme", model="m",
        request=request or InlineBody(value={"model": "m", "input": "Hi"}), not_after_ms=at_ms + VALID_MS,
        timeout_ms=1_500,
    )  # fmt: skip


@dataclass
class Bench:
    """A submitter at work."""

    commands: MemoryCommands
    publisher: MemoryPublisher
    server: Server
    blobs: FolderBlobs
    registry: CollectorRegistry
    stop: asyncio.Event
    run: "asyncio.Task[None]"
    now_ms: list[int]
    rate: PollRate
    pauses: Pauses
    provider: OpenAIProvider

    async def facts(self, count: int, timeout_s: float = 5) -> list[Any]:
        await eventually(lambda: len(self.publisher.acked) >= count, timeout_s, f"{count} facts")
        return self.publisher.landed

    def dropped(self, reason: str) -> float:
        labels = {"worker": "submitter", "reason": reason}
        return self.registry.get_sample_value("backstop_commands_dropped_total", labels) or 0.0

    async def dropped_one(self, reason: str) -> None:
        await eventually(lambda: self.dropped(reason) == 1, 5, f"a command dropped as {reason}")


@dataclass
class Probe:
    """A submitter whose lane is closed: its create is the probe, claimed by `written[0]`, and waits for its turn."""

    bench: Bench
    lanes: Lanes
    written: list[CreateFact]
    now_ms: list[int]

    def read_own_claim(self) -> None:
        self.lanes.read(self.written[0], self.now_ms[0])

    def is_given_back(self) -> bool:
        closed = self.lanes.of("m").closed
        return closed is not None and closed.probing is None


@asynccontextmanager
async def probing(tmp_path: Path) -> AsyncIterator[Probe]:
    """The create may be sent for `VALID_MS` from its claim."""
    now_ms, written = [NOW_MS], list[CreateFact]()
    lanes = Lanes(lambda: now_ms[0])
    lanes.failed("m", "c", "account", "x")
    lanes.join(written.append)
    now_ms[0] += PROBE_WAIT_MS
    async with submitting(tmp_path, lanes=lanes, now_ms=lambda: now_ms[0]) as bench:
        bench.commands.publish(create().model_copy(update={"not_after_ms": now_ms[0] + VALID_MS}))
        await eventually(lambda: bool(written), 5, "a claim")
        yield Probe(bench, lanes, written, now_ms)


@asynccontextmanager
async def submitting(
    tmp_path: Path,
    *script: Mischief,
    commands: MemoryCommands | None = None,
    provider_options: Mapping[str, Any] = MappingProxyType({}),
    lanes: Lanes | None = None,
    now_ms: NowMs | None = None,
    rules: LimitRules = NO_LIMITS,
    early: EarlyCreates | None = None,
    **limits: Any,
) -> AsyncIterator[Bench]:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    commands = commands or MemoryCommands()
    publisher, blobs, stop = MemoryPublisher(), FolderBlobs(tmp_path), asyncio.Event()
    told_ms = [NOW_MS]
    clock = now_ms or (lambda: told_ms[0])
    async with serving(*(script or (OK,))) as state:
        provider = provider_of(account_at(state.base_url), clock, metrics, **provider_options)
        rate = PollRate(250.0, clock, metrics.poll_rate_limit.set)
        pauses = Pauses()
        parts = WorkerParts(
            ProviderAccess(provider, lanes or Lanes(clock), rate, pauses),
            Reporting(publisher, metrics, clock),
            Bodies(blobs, 65_536),
            Webhooks(PollPolicy()),
            early or EarlyCreates(),
        )
        submitter = Submitter(commands, parts, SubmitterLimits(**{"drain_ms": 2_000, **limits}), rules)
        run = asyncio.create_task(submitter.run(stop))
        try:
            yield Bench(commands, publisher, state, blobs, registry, stop, run, told_ms, rate, pauses, provider)
        finally:
            stop.set()
            await asyncio.gather(run, return_exceptions=True)
            await provider.close()
