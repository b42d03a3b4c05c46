"""The upstream services of a run: submit on both ingresses at a steady rate, cancel a few, keep the
acknowledged jobs.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from backstop.dev.sample_jobs import MODELS
from backstop.dev.upstream import RequestWriter
from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.http.api_client import ApiError, ask, submit
from backstop.runtime.process.clock import NowMs
from schemas.requests import Cancel, Submit
from streams.policy.limits import PRIORITIES
from tests.torture.plan import LAST_TIMEOUT_MS, RETRIES_MAX
from tests.torture.rig import Rig

CONCURRENCY = 64
TRY_AGAIN_S = 0.5
CANCELS = 0.02
REPEATS = 0.02
POISONS = 0.01
STREAMED = 8
"""Of this many jobs two ask for partial output, one on each ingress. There are no listeners; the provider's streams
fail like all other calls.
"""

LATER = 0.1
"""Of the jobs of a run with limits: they name a start time."""
LATER_MS_MAX = 10_000

HEDGED = 0.5
"""Of the jobs without partial output, in a run with hedges: they may have a second attempt beside a slow one."""
UNUSUAL = (
    (0.10, {"sim_fault": "run_stuck_in_progress@1"}),
    (0.05, {"sim_fault": "run_slow@1"}),
    (0.05, {"sim_run_s": "100"}),
)
"""Of those, the share that runs for unusually long, and how: a first attempt that does not end or is slow, which a
second one overtakes; and a request that is long by nature, several times the median, whose second one is as long.
"""

LARGE = 0.01
LARGE_CHARACTERS = 150_000
POISON_VALUES = (
    b"",
    b"\xff\xfe",
    b"{",
    b"[]",
    b'{"type":"submit"}',
    b'{"v":9,"type":"submit"}',
    b"null",
    b"\x00" * 1000,
)


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A submission that was answered with a 2xx, or whose record was acknowledged."""

    job_id: str
    ingress: str
    at_ms: int


@dataclass(slots=True)
class Submitted:
    """What the driver saw."""

    acknowledged: list[Acknowledged] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    """Answers to HTTP submissions; 0: none came."""
    kafka_failures: int = 0
    cancels: int = 0
    poisons: int = 0
    refused: list[str] = field(default_factory=list)
    """Submissions that were refused for good: none should be."""
    done: bool = False


class Driver:
    """Everything is drawn from the seed: the same run submits the same jobs."""

    def __init__(self, rig: Rig, now_ms: NowMs) -> None:
        self.seen = Submitted()
        self._healed = asyncio.Event()
        self._rig = rig
        self._plan = rig.plan
        self._now_ms = now_ms
        self._writer: RequestWriter | None = None
        self._writing = asyncio.Lock()
        self._session = aiohttp.ClientSession(rig.url, connector=aiohttp.TCPConnector(limit=CONCURRENCY))

    async def run(self) -> None:
        """Submit all; return when each has been acknowledged."""
        gate = asyncio.Semaphore(CONCURRENCY)
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(1, self._plan.jobs + 1):
                    await gate.acquire()
                    group.create_task(self._one(number, gate.release))
                    await asyncio.sleep(1 / self._plan.rate_per_s)
            if self._plan.jobs_in_all > self._plan.jobs:
                await self._healed.wait()
            async with asyncio.TaskGroup() as group:
                for number in range(self._plan.jobs + 1, self._plan.jobs_in_all + 1):
                    await gate.acquire()
                    group.create_task(self._last(number, gate.release))
        finally:
            await self._session.close()
            if self._writer is not None:
                await self._writer.stop()
        self.seen.done = True

    async def _one(self, number: int, release: Callable[[], None]) -> None:
        draw = random.Random(f"{self._plan.seed} {number}")
        over_kafka = number % 2 == 1
        text = f"job {number} of seed {self._plan.seed}"
        if draw.random() < LARGE:
            text += " large" * (LARGE_CHARACTERS // 6)
        job = Submit(
            job_id=f"kafka-{number:06d}" if over_kafka else None,
            request={"model": MODELS[number % len(MODELS)], "input": text}
            | ({"stream": True} if number % STREAMED < 2 else {})
            | self._unusual(number),
            timeout_ms=self._plan.timeout_ms,
            retries_max=draw.randrange(RETRIES_MAX + 1),
            hedge=self._hedge(number),
            **self._turn(number),
        )
        try:
            sent_at_ms = self._now_ms()
            job_id = await (self._over_kafka(job) if over_kafka else self._over_http(job, f"torture-{number}"))
            if not job_id:
                return
            self.seen.acknowledged.append(Acknowledged(job_id, "kafka" if over_kafka else "http", sent_at_ms))
            if draw.random() < REPEATS:
                await (self._over_kafka(job) if over_kafka else self._over_http(job, f"torture-{number}"))
            if draw.random() < CANCELS:
                await asyncio.sleep(draw.uniform(0, 3))
                await self._cancel(job_id, over_kafka=over_kafka)
            if draw.random() < POISONS:
                await self._poison(f"poison-{number}".encode(), draw.choice(POISON_VALUES))
        finally:
            release()

    async def last_may_come(self) -> None:
        """To be called when nothing is broken any more."""
        await self._rig.ready()
        self._healed.set()

    async def _last(self, number: int, release: Callable[[], None]) -> None:
        """A job that may be hedged, of one model, as the run times of each model are learned apart."""
        request = {"model": MODELS[0], "input": f"last job {number}"}
        unusual = {0: {"metadata": UNUSUAL[0][1]}, 3: {"metadata": UNUSUAL[2][1]}}.get(number % 6, {})
        job = Submit(request=request | unusual, timeout_ms=LAST_TIMEOUT_MS, retries_max=RETRIES_MAX, hedge=True)
        try:
            sent_at_ms = self._now_ms()
            if job_id := await self._over_http(job, f"torture-{number}"):
                self.seen.acknowledged.append(Acknowledged(job_id, "http", sent_at_ms))
        finally:
            release()

    def _hedge(self, number: int) -> bool | None:
        """Drawn apart, so that all else stays the same."""
        may = self._plan.hedges and number % STREAMED >= 2
        return True if may and random.Random(f"{self._plan.seed} {number} hedge").random() < HEDGED else None

    def _unusual(self, number: int) -> dict[str, Any]:
        """The field of the request that makes its run unusually long; most have none."""
        if self._hedge(number) is None:
            return {}
        draw, below = random.Random(f"{self._plan.seed} {number} unusual").random(), 0.0
        for share, metadata in UNUSUAL:
            below += share
            if draw < below:
                return {"metadata": metadata}
        return {}

    def _turn(self, number: int) -> dict[str, Any]:
        """Priority and start time, where the run has limits; drawn apart, so that all else stays the same."""
        if not self._plan.limits:
            return {}
        draw = random.Random(f"{self._plan.seed} {number} turn")
        turn: dict[str, Any] = {"priority": draw.choice(PRIORITIES)}
        if draw.random() < LATER:
            turn["not_before_ms"] = self._now_ms() + draw.randrange(LATER_MS_MAX)
        return turn

    async def _over_kafka(self, request: Submit | Cancel) -> str:
        assert request.job_id is not None
        while True:
            writer = await self._started()
            try:
                await writer.send(request)
                return request.job_id
            except BrokerUnavailableError:
                self.seen.kafka_failures += 1
                await self._renew(writer)

    async def _over_http(self, job: Submit, key: str) -> str:
        while True:
            try:
                answer = await submit(self._session, job.model_dump(mode="json", exclude_none=True), key)
                self.seen.statuses[200] += 1
                return str(answer["job_id"])
            except ApiError as error:
                self.seen.statuses[error.status] += 1
                if not error.passing:
                    self.seen.refused.append(f"{key}: {error.status} {error.code}")
                    return ""
                await asyncio.sleep(TRY_AGAIN_S)

    async def _cancel(self, job_id: str, *, over_kafka: bool) -> None:
        if over_kafka:
            await self._over_kafka(Cancel(type="cancel", job_id=job_id))
        else:
            with suppress(ApiError):
                await ask(self._session, "POST", f"/v1/jobs/{job_id}/cancel")
        self.seen.cancels += 1

    async def _poison(self, key: bytes, value: bytes) -> None:
        """Send once, acknowledged or not: a cancel is not repeated."""
        producer = AIOKafkaProducer(bootstrap_servers=self._rig.runtime.kafka_bootstrap_servers)
        with suppress(KafkaError):
            await producer.start()
            await producer.send_and_wait(f"{self._rig.runtime.topic_prefix}requests", value, key=key)
            self.seen.poisons += 1
        await producer.stop()

    async def _started(self) -> RequestWriter:
        async with self._writing:
            while self._writer is None:
                writer = RequestWriter(self._rig.runtime)
                try:
                    await writer.start()
                    self._writer = writer
                except KafkaError:
                    self.seen.kafka_failures += 1
                    await writer.stop()
                    await asyncio.sleep(TRY_AGAIN_S)
            return self._writer

    async def _renew(self, failed: RequestWriter) -> None:
        async with self._writing:
            if self._writer is failed:
                self._writer = None
                await failed.stop()
        await asyncio.sleep(TRY_AGAIN_S)
