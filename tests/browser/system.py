"""The whole system with a key for each of two tenants, and a provider whose models are slow or quick by their names."""

import asyncio
import json
import os
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from aiokafka import AIOKafkaProducer

from backstop.dev.fast_provider import BRISK
from backstop.dev.system import Shape, System
from backstop.runtime.http.keys import Scope
from tests.kafka.held import held
from tests.support.accepted import answered
from tests.support.api_keys import write_keys
from tests.support.waiting import wait_until

QUICK, SLOW = "quick-model", "slow-model"
SLOW_S = 600.0
"""Duration of a run of the slow model: longer than any test waits. `Running.finish` ends such a run."""
TIME_SCALE = 20.0
ENDED_WITHIN_S = 40.0

SCOPES: dict[str, set[Scope]] = {"acme": {"submit", "read", "operate"}, "globex": {"read"}}

BUDGETS = '[{"tenant": "acme", "per": "month", "usd": 500, "stop": true}]'


@dataclass(frozen=True)
class Running:
    """The system, and a key of each tenant."""

    system: System
    keys: Mapping[str, str]

    @property
    def url(self) -> str:
        return f"{self.system.url}/ui"

    def ask(self, path: str, body: Any = None, tenant: str = "acme") -> Any:
        headers = {"Authorization": f"Bearer {self.keys[tenant]}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.system.url + path, data, headers)
        try:
            return json.loads(answered(request))
        except HTTPError as error:
            with error:
                raise AssertionError(f"{path}: {error.code} {error.read().decode()}") from error

    def answers(self) -> bool:
        with urlopen(f"{self.system.url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)

    def submit(self, model: str = QUICK, text: str = "Say hello.", **more: Any) -> str:
        metadata = more.pop("metadata", {})
        request = {"model": model, "input": text, "metadata": metadata}
        return str(self.ask("/v1/jobs", {"request": request, **more})["job_id"])

    def ended(self, job_id: str) -> Any:
        def poll() -> Any:
            job = self.ask(f"/v1/jobs/{job_id}")
            return job if job["terminal"] else None

        return wait_until(poll, ENDED_WITHIN_S, f"the end of {job_id}", poll_s=0.1)

    def finish(self, job_id: str) -> None:
        """End the job's running response now."""

        def response_id() -> str | None:
            creates = (self.system.ledgers / "creates.jsonl").read_text().splitlines()
            made = (each for each in map(json.loads, creates) if each["job"] == f"acme:{job_id}")
            return next((str(each["response"]) for each in made), None)

        body = json.dumps({"response": wait_until(response_id, 20, "a response", poll_s=0.1)}).encode()
        with urlopen(Request(f"{self.system.simulator_url}/sim/finish", body), timeout=10) as answer:
            assert answer.status == 200

    def put(self, topic: str, key: bytes, value: bytes) -> None:
        """A record that an untrusted producer could write."""

        async def send() -> None:
            producer = AIOKafkaProducer(bootstrap_servers=self.system.bootstrap, acks="all")
            await producer.start()
            try:
                await producer.send_and_wait(f"{self.system.runtime.topic_prefix}{topic}", value, key=key)
            finally:
                await producer.stop()

        elsewhere(send())


def elsewhere(work: Coroutine[Any, Any, None]) -> None:
    """Run it on a thread of its own: Playwright holds this one's loop."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


@contextmanager
def running_with_keys(
    folder: Path,
    bootstrap: str = "",
    faults: str | None = None,
    *,
    webhooks: bool = False,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """On a broker of its own where none is named."""
    keys_file = folder / "keys.json"
    keys = write_keys(keys_file, SCOPES)
    with pytest.MonkeyPatch.context() as patched:
        for name in [name for name in os.environ if name.startswith(("BACKSTOP_", "OPENAI_"))]:
            patched.delenv(name)
        patched.setenv("BACKSTOP_REQUEST_TENANTS", "acme")
        shape = Shape(
            folder=folder,
            environment={**BRISK, **os.environ, **({"KAFKA_BOOTSTRAP_SERVERS": bootstrap} if bootstrap else {})},
            settings={"BACKSTOP_KEYS_FILE": str(keys_file), "BACKSTOP_BUDGETS": BUDGETS, **(settings or {})},
            port=0,
            partitions=2,
            faults=faults or json.dumps({"models": {"*": _takes(0.3), SLOW: _takes(SLOW_S)}}),
            time_scale=TIME_SCALE,
            webhooks=webhooks,
        )
        with held(shape) as system:
            yield Running(system, keys)


def _takes(run_s: float) -> dict[str, Any]:
    """A model whose runs take that long in real time."""
    return {
        "queue": {"kind": "fixed", "s": 0.1 * TIME_SCALE},
        "run": {"kind": "fixed", "s": run_s * TIME_SCALE},
    }
