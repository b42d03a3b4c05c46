"""A whole system before a provider that is not ours, driven and read from outside."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from backstop.dev.system import RealOpenAI, Shape, System
from backstop.dev.upstream import ResultReader
from schemas.results import JobResult
from tests.kafka.held import held
from tests.providers.servers import Process

QUIET_S = 2.0


@dataclass
class Run:
    """A system with its provider, and the results that came."""

    system: System
    results: list[JobResult] = field(default_factory=list)

    def submit(self, job_id: str, model: str, prompt: str) -> None:
        body = {"job_id": job_id, "request": {"model": model, "input": prompt}}
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(f"{self.system.url}/v1/jobs", json.dumps(body).encode(), headers), timeout=30) as answer:
            assert answer.status in (200, 201, 202)

    def ask(self, path: str) -> Any:
        with urlopen(f"{self.system.url}{path}", timeout=30) as answer:
            return json.loads(answer.read())

    def read_results(self, awaited: Iterable[str], within_s: float, quiet_s: float = QUIET_S) -> None:
        """Until those of `awaited` have come, and a little longer: a second one of a job would come now."""
        self.results.clear()
        missing = set(awaited)

        async def read() -> None:
            reader = ResultReader(self.system.runtime)
            await reader.start(from_beginning=True)
            stream = reader.read()
            try:
                async with asyncio.timeout(within_s) as limit:
                    async for result in stream:
                        self.results.append(result)
                        missing.discard(result.job_id)
                        if not missing:
                            limit.reschedule(asyncio.get_running_loop().time() + quiet_s)
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
def backstop(
    folder: Path, openai: RealOpenAI, settings: Mapping[str, str], bootstrap: str | None = None
) -> Iterator[Run]:
    """On a broker of its own, or with topics of its own on the one at `bootstrap`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BACKSTOP_", "OPENAI_"))}
    shape = Shape(
        folder=folder, environment=inherited, settings=settings, port=0, openai=openai, recorded_bootstrap=bootstrap
    )
    folder.mkdir()
    with held(shape) as system:
        yield Run(system)
