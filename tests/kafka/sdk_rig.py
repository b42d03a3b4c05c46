"""The whole system, what the tests of the SDK door run against it, and how they ask it."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import pytest
from openai import OpenAI

from backstop.dev.broker import Owned
from backstop.dev.fast_provider import BRISK
from backstop.dev.system import Shape, System
from backstop.runtime.http.keys import Scope, TenantLimits
from tests.kafka.held import held
from tests.support.accepted import UNACKNOWLEDGED
from tests.support.api_keys import write_keys
from tests.support.waiting import wait_until

ENDED_WITHIN_S = 60.0
ASKED: dict[str, Any] = {"model": "gpt-5.2", "input": "Say hello.", "background": True}
STUCK: dict[str, Any] = {**ASKED, "metadata": {"sim_fault": "run_stuck_in_progress", "mine": "kept"}}


@dataclass(frozen=True)
class Running:
    """The system, and a key of each tenant."""

    system: System
    keys: Mapping[str, str]

    def environment(self, tenant: str) -> dict[str, str]:
        """All that is set for a program of a caller's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "BACKSTOP_"))}
        return {**kept, "OPENAI_BASE_URL": f"{self.system.url}/v1", "OPENAI_API_KEY": self.keys[tenant]}

    def client(self, tenant: str, **options: Any) -> OpenAI:
        return OpenAI(base_url=f"{self.system.url}/v1", api_key=self.keys[tenant], **options)

    def creates_of(self, response_id: str, tenant: str) -> int:
        """How many responses the provider accepted for it."""
        lines = (self.system.ledgers / "creates.jsonl").read_text().splitlines()
        return sum(json.loads(line).get("job") == f"{tenant}:{response_id}" for line in lines)

    def metrics(self, child: str) -> str:
        """The metrics of one process of the system, as it shows them itself."""
        variables = Path(f"/proc/{self.system.supervisor.pid(child)}/environ").read_bytes().split(b"\0")
        port = next(int(each.partition(b"=")[2]) for each in variables if each.startswith(b"BACKSTOP_HEALTH_PORT="))
        return ask(f"http://127.0.0.1:{port}/metrics")


def ask(url: str, body: dict[str, Any] | None = None, key: str = "") -> str:
    """Any server: GET, or POST if there is a body. Again, while a log does not acknowledge it in time."""

    async def story() -> tuple[int, str] | None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        method = "GET" if body is None else "POST"
        async with aiohttp.ClientSession(headers=headers) as session, session.request(method, url, json=body) as answer:
            text = await answer.text()
            return None if UNACKNOWLEDGED in text and answer.status == 503 else (answer.status, text)

    status, text = wait_until(lambda: asyncio.run(story()), 60, f"the log's acknowledgement of {url}")
    assert status in (200, 202), text
    return text


@contextmanager
def running_system(broker: Owned, folder: Path) -> Iterator[Running]:
    """One system for all tests here, held by a thread: the SDK under test is the synchronous one, too."""
    keys_file, keys = three_tenants(folder / "keys.json")
    with pytest.MonkeyPatch.context() as patched:
        for name in [name for name in os.environ if name.startswith(("BACKSTOP_", "OPENAI_"))]:
            patched.delenv(name)
        patched.setenv("BACKSTOP_REQUEST_TENANTS", "acme")
        shape = Shape(
            folder=folder,
            environment={**BRISK, **os.environ, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap},
            settings={"BACKSTOP_KEYS_FILE": str(keys_file)},
            port=0,
            partitions=2,
            time_scale=20.0,
        )
        with held(shape) as system:
            yield Running(system, keys)


WORKERS = ("worker-1", "worker-2")


@contextmanager
def two_workers(broker: Owned, folder: Path, time_scale: float = 1.0, limits: str = "") -> Iterator[Running]:
    """A system whose workers miss each other soon. `limits`: as `BACKSTOP_LIMITS`."""
    keys_file, keys = three_tenants(folder / "keys.json")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BACKSTOP_", "OPENAI_"))}
    shape = Shape(
        folder=folder,
        environment={**BRISK, **environment, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap},
        settings={
            "BACKSTOP_KEYS_FILE": str(keys_file),
            "BACKSTOP_WORKER_SESSION_TIMEOUT_S": "6",
            "BACKSTOP_WORKER_HEARTBEAT_S": "0.5",
            "BACKSTOP_LIMITS": limits,
        },
        port=0,
        workers=len(WORKERS),
        partitions=4,
        time_scale=time_scale,
    )
    with held(shape) as system:
        yield Running(system, keys)


def three_tenants(path: Path, *more: Scope) -> tuple[Path, dict[str, str]]:
    """The keys of tenants that the tests here know, in a file. :param more: scopes besides `submit` and `read`."""
    scopes = dict.fromkeys(("acme", "globex", "limited"), frozenset[Scope](("submit", "read", *more)))
    return path, write_keys(path, scopes, {"limited": TenantLimits(open_jobs_max=0)})


POLLED = """
from time import sleep
from openai import OpenAI

client = OpenAI()
response = client.responses.create(model="gpt-5.2", input="Say hello from Python.", background=True)
while response.status in {"queued", "in_progress"}:
    sleep(2)
    response = client.responses.retrieve(response.id)
print(f"{response.status}: {response.output_text}")
"""
CANCELLED = """
from openai import OpenAI

client = OpenAI()
response = client.responses.create(model="gpt-5.2", input="Say hello from Python.", background=True)
print(client.responses.cancel(response.id).status)
"""
STREAMED = """
from openai import OpenAI

client = OpenAI()
text = ""
stream = client.responses.create(model="gpt-5.2", input="Say hello from Python.", background=True, stream=True)
for event in stream:
    if event.type == "response.created":
        response_id = event.response.id
    if event.type == "response.output_text.delta":
        text += event.delta
    cursor = event.sequence_number
    if text:
        break
for event in client.responses.retrieve(response_id, stream=True, starting_after=cursor):
    if event.type == "response.output_text.delta":
        text += event.delta
    if event.type == "response.completed":
        print(f"{event.response.status}: {text}")
"""
GUIDE = {
    "polled": (POLLED, "completed: Echo: Say hello from Python.\n"),
    "cancelled": (CANCELLED, "cancelled\n"),
    "streamed, cut off, and resumed": (STREAMED, "completed: Echo: Say hello from Python.\n"),
}
"""The calls of OpenAI's guide to background mode, in its order, and what they print."""


def ended(client: OpenAI, response_id: str) -> Any:
    def poll() -> Any:
        response = client.responses.retrieve(response_id)
        return response if response.status not in {"queued", "in_progress"} else None

    return wait_until(poll, ENDED_WITHIN_S, f"the end of {response_id}", poll_s=0.1)


class Losing(httpx2.BaseTransport):
    """A way on which the answer to the first request of each path gets lost."""

    def __init__(self) -> None:
        self._inner = httpx2.HTTPTransport()
        self.retry_counts: list[str] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.retry_counts.append(request.headers["x-stainless-retry-count"])
        response = self._inner.handle_request(request)
        if len(self.retry_counts) > 1:
            return response
        response.read()
        response.close()
        raise httpx2.ReadError("the answer was lost")

    def close(self) -> None:
        self._inner.close()


async def asked_over_http(running: Running, tenant: str, path: str, status: int = 200, method: str = "GET") -> Any:
    headers = {"Authorization": f"Bearer {running.keys[tenant]}"}
    async with (
        aiohttp.ClientSession(running.system.url, headers=headers) as session,
        session.request(method, path) as answer,
    ):
        assert answer.status == status, (path, await answer.text())
        return await answer.json(content_type=None)


def node(running: Running, folder: Path, script: str) -> str:
    environment = {**running.environment("acme"), "LIMITED_KEY": running.keys["limited"]}
    done = subprocess.run(
        ["node", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
