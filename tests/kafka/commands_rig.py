"""Submitters and callers as processes of their own, with the simulator, over a real broker."""

import asyncio
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from backstop.runtime.kafka.publisher import KafkaPublisher
from backstop.runtime.kafka.topics import create_topics
from backstop.runtime.process.clock import make_clock
from backstop.simulator.app import build_app
from backstop.simulator.config import SimulatorConfig
from backstop.simulator.loading import load_profile
from schemas.base import InlineBody, Message
from schemas.codec import decode
from schemas.commands import CreateResponse
from schemas.jobs import JOB_FACT, AttemptAccepted
from schemas.responses import RESPONSE_FACT
from streams.settings import StreamSettings
from tests.support.children import child
from tests.support.reading import records_on
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]


KEY = "sk-simulator"


PARTITIONS = 4


SESSION_MS = 2_000


NEVER_S = 3_600


PROFILE = '{"models": {"*": {"run": {"kind": "fixed", "s": %d}, "queue": {"kind": "fixed", "s": 0}}}}'


ADAPTERS: dict[str, Any] = {"jobs": JOB_FACT, "responses": RESPONSE_FACT}


class Rig:
    """A prefix with its topics, a stand-in for OpenAI, and the processes that a test starts."""

    def __init__(self, settings: StreamSettings, folder: Path, session: aiohttp.ClientSession, root: str) -> None:
        self.settings = settings
        self._folder = folder
        self._session = session
        self._root = root
        self._publisher = KafkaPublisher(settings, "test")
        self.now_ms = make_clock()

    async def start(self) -> None:
        await create_topics(self.settings)
        await self._publisher.start()

    async def stop(self) -> None:
        await self._publisher.stop()

    async def publish(self, *messages: Message) -> None:
        await self._publisher.publish(messages)

    def create(self, job_id: str, valid_ms: int = 60_000) -> CreateResponse:
        at_ms = self.now_ms()
        return CreateResponse(
            id=f"{job_id}/1/create", at_ms=at_ms, job_id=job_id, attempt=1, tenant="acme", model="m",
            request=InlineBody(value={"model": "m", "input": job_id}), not_after_ms=at_ms + valid_ms,
        )  # fmt: skip

    async def creates(self) -> Counter[str]:
        """How many creates the provider accepted for each job (all are attempt 1)."""
        return Counter([str(line["job"]) for line in await self.ledger("creates")])

    async def ledger(self, name: str) -> list[dict[str, Any]]:
        async with self._session.get(f"{self._root}/sim/ledger/{name}") as response:
            return [json.loads(line) for line in (await response.text()).splitlines() if line]

    async def aim(self, **fault: Any) -> None:
        async with self._session.post(f"{self._root}/sim/aim", json=fault) as response:
            assert response.status == 200, await response.text()

    async def facts(self, topic: str) -> list[Any]:
        """Everything that stands on a topic now."""
        return [decode(ADAPTERS[topic], value) for value in await self._values(topic)]

    async def accepted(self) -> set[str]:
        return {fact.job_id for fact in await self.facts("jobs") if isinstance(fact, AttemptAccepted)}

    async def _values(self, topic: str) -> list[bytes]:
        name = f"{self.settings.topic_prefix}{topic}"
        records = await records_on(self.settings.kafka_bootstrap_servers, name)
        return [record.value for record in records]

    @contextmanager
    def worker(self, failpoints: str = ""):
        """A worker process; killed at the end if it still lives."""
        arguments = ["-m", "tests.kafka.worker_child"]
        with child(arguments, self._environment(failpoints), self._folder / "workers.log") as process:
            yield process

    def _environment(self, failpoints: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "KAFKA_BOOTSTRAP_SERVERS": self.settings.kafka_bootstrap_servers,
            "BACKSTOP_TOPIC_PREFIX": self.settings.topic_prefix,
            "BACKSTOP_DATA_DIR": str(self.settings.data_dir),
            "BACKSTOP_GROUP_SESSION_TIMEOUT_MS": str(SESSION_MS),
            "OPENAI_BASE_URL": self.settings.openai_base_url,
            "OPENAI_API_KEY": KEY,
            "BACKSTOP_FAILPOINTS": failpoints,
        }


@asynccontextmanager
async def rigged(bootstrap: str, prefix: str, folder: Path, run_s: int = NEVER_S) -> AsyncIterator[Rig]:
    app = build_app(SimulatorConfig(profile=load_profile(PROFILE % run_s), api_keys=(KEY,)))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    root = f"http://127.0.0.1:{runner.addresses[0][1]}"
    settings = StreamSettings(
        kafka_bootstrap_servers=bootstrap, topic_prefix=prefix, partitions=PARTITIONS, data_dir=folder,
        openai_base_url=f"{root}/v1", openai_api_key=KEY, group_session_timeout_ms=SESSION_MS,
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session:
            rig = Rig(settings, folder, session, root)
            await rig.start()
            try:
                yield rig
            finally:
                await rig.stop()
    finally:
        await runner.cleanup()


WITHIN_S = 60
"""Enough for a broker that has just started: its first consumer group waits for its coordinator."""


async def died(process: "subprocess.Popen[bytes]", what: str) -> int:
    return -(await eventually(process.poll, WITHIN_S, what) or 0)


def heeds_sigterm(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM: one that is still importing ends by the signal itself."""
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


async def ended(process: "subprocess.Popen[bytes]") -> None:
    await eventually(lambda: heeds_sigterm(process.pid), WITHIN_S, "the worker's handler")
    process.send_signal(signal.SIGTERM)
    await eventually(lambda: process.poll() is not None, WITHIN_S, "the worker's end")
    assert process.returncode == 0


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)
