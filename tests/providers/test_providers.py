"""Backstop, all of it, before servers that others wrote: each job is completed, and none is run that need not be.

Settings are the defaults but for what a test names. Neither server sends webhooks, so every end is found by polling.
"""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from backstop.dev.ports import Ports
from backstop.dev.system import RealOpenAI, Shape, System
from backstop.dev.upstream import ResultReader
from schemas.results import JobResult
from tests.kafka.held import held
from tests.providers.servers import LiteLlm, Ogx, Process, Stub
from tests.providers.stub import text_of
from tests.support.waiting import wait_until

STUCK_AFTER: Mapping[str, str] = {"BACKSTOP_SUBMISSION_STUCK_AFTER_MS": "30000"}
"""The policy for responses that show no change."""

UP_S, ENDED_WITHIN_S = 60.0, 900.0
QUIET_S = 2.0


@dataclass
class Run:
    """A system with its provider, and the results that came."""

    system: System
    results: list[JobResult] = field(default_factory=list)

    def submit(self, model: str, count: int) -> None:
        for number in range(count):
            body = {"job_id": f"job-{number}", "request": {"model": model, "input": f"prompt {number}"}}
            request = Request(
                f"{self.system.url}/v1/jobs", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urlopen(request, timeout=30) as answer:
                assert answer.status in (200, 201, 202)

    def read_results(self, count: int) -> None:
        """Until `count` have come, and a little longer: a second one of a job would come now."""

        async def read() -> None:
            reader = ResultReader(self.system.runtime)
            await reader.start(from_beginning=True)
            stream = reader.read()
            try:
                async with asyncio.timeout(ENDED_WITHIN_S) as limit:
                    async for result in stream:
                        self.results.append(result)
                        if len(self.results) == count:
                            limit.reschedule(asyncio.get_running_loop().time() + QUIET_S)
            except TimeoutError:
                pass
            finally:
                await reader.stop()

        asyncio.run(read())

    def outcomes(self) -> Counter[str]:
        return Counter(result.outcome for result in self.results)

    def told(self, **figures: Any) -> str:
        attempts = Counter(len(result.attempts) for result in self.results)
        reasons = Counter(str(result.reason) for result in self.results if result.outcome != "completed")
        return f"{dict(self.outcomes())}, attempts a job {dict(attempts)}, {figures}, {dict(reasons.most_common(5))}"


@contextmanager
def running(*servers: Process) -> Iterator[None]:
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.kill)
            server.start()
        yield


@contextmanager
def backstop(folder: Path, base_url: str, key: str, settings: Mapping[str, str]) -> Iterator[Run]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BACKSTOP_", "OPENAI_"))}
    shape = Shape(
        folder=folder, environment=inherited, settings=settings, port=0, openai=RealOpenAI(key, base_url, "")
    )  # fmt: skip
    folder.mkdir()
    with held(shape) as system:
        yield Run(system)


def assert_answered_right(results: list[JobResult]) -> None:
    """Each got the text that its own prompt gives."""
    for result in results:
        number = result.job_id.removeprefix("job-")
        assert text_of(f"prompt {number}") in json.dumps(result.model_dump(mode="json")["response"]), result.job_id


@pytest.mark.timeout(1_500)
def test_a_server_that_is_killed_in_the_middle_of_200_jobs_loses_none(
    venv: Path, ports: Ports, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = Stub(tmp_path, ports.draw(), run_s=1.0)
    ogx = Ogx(venv, tmp_path / "ogx", ports.draw(), stub)
    with running(stub.process, ogx.process), backstop(tmp_path / "b", ogx.base_url, "sk-ogx", STUCK_AFTER) as run:
        run.submit(ogx.model, 200)
        wait_until(lambda: sum(stub.calls().values()) >= 60, UP_S, "60 of the runs to have begun")
        ogx.process.kill()
        ogx.process.start()
        run.read_results(200)
        figures = run.told(responses=len(ogx.responses()), runs=sum(stub.calls().values()))
    with capsys.disabled():
        print(f"\nOGX killed in the middle of 200 jobs: {figures}", file=sys.stderr)
    assert run.outcomes() == {"completed": 200}, figures
    assert_answered_right(run.results)


@pytest.mark.timeout(900)
def test_ten_jobs_through_a_proxy_whose_ids_are_long_and_change_are_ten_responses(
    venv: Path, ports: Ports, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = Stub(tmp_path, ports.draw(), run_s=0.2)
    ogx = Ogx(venv, tmp_path / "ogx", ports.draw(), stub)
    proxy = LiteLlm(venv, tmp_path / "litellm", ports.draw(), ogx)
    with (
        running(stub.process, ogx.process, proxy.process),
        backstop(tmp_path / "b", proxy.base_url, proxy.key, {}) as run,
    ):
        run.submit(proxy.model, 10)
        run.read_results(10)
        figures = run.told(responses=len(ogx.responses()), runs=sum(stub.calls().values()))
        responses = ogx.responses()
    with capsys.disabled():
        print(f"\nLiteLLM before OGX, 10 jobs: {figures}", file=sys.stderr)
    assert run.outcomes() == {"completed": 10}, figures
    assert len(responses) == 10, figures
    assert_answered_right(run.results)
