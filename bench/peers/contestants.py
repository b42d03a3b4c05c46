"""Backstop, FastAPI with PostgreSQL, and Restate: how each is started, given a job, and asked for results.

Each has the same simulator of the provider, and the same supervisor, which starts a killed process again after 0.5 s.
"""

import asyncio
import base64
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import psycopg

from backstop.dev.ports import HOST, Ports
from backstop.dev.supervisor import Program, Ready, Supervisor
from backstop.dev.system import Shape, running_system
from backstop.dev.upstream import ResultReader
from tests.unit.backstop.readmodel.postgres_server import postgres

HERE = Path(__file__).parent
PYTHON = HERE / ".venv/bin/python"
RESTATE = HERE / "node_modules/.bin/restate-server"
"""Both are installed by `make bench-peers`."""
POLL_S = 30.0
KEY = "sk-peers"
COMPLETED = """SELECT count(*) AS n FROM sys_invocation
    WHERE target_service_name = 'Job' AND target_handler_name = 'run' AND status = 'completed'"""


Clock = Callable[[], float]
"""Milliseconds of this machine's clock."""


@dataclass(frozen=True, slots=True)
class Work:
    """Where a run's files are, and how the provider behaves."""

    folder: Path
    profile: Mapping[str, Any]
    each: bool
    """Whether the time of each result is measured; else only the time of the last."""
    workers: int = 1
    """Of Backstop. Where there are two, a kill hits the first alone."""


@dataclass(slots=True)
class Contestant:
    """A running contestant."""

    simulator_url: str
    supervisor: Supervisor
    app: tuple[str, ...] = ("app",)
    """The names of the processes that are measured, and killed where `killed` is empty."""
    servers: tuple[int, ...] = ()
    """Pids of the servers that the application needs: the broker, the database."""
    submission: Callable[[str], tuple[str, Any]] = lambda job_id: (job_id, None)
    """A job's address and body."""
    submitted: Callable[[str], None] = lambda _job_id: None
    """Called with a job that was accepted."""
    seen: dict[str, float] = field(default_factory=dict)
    """When each job's result could be read by others."""
    count: Callable[[], Awaitable[int]] | None = None
    """How many results there are, where `seen` is not filled."""
    killed: tuple[str, ...] = ()


class Start(Protocol):
    """How to run a contestant."""

    def __call__(self, work: Work, clock: Clock) -> AbstractAsyncContextManager[Contestant]: ...


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def answers(url: str) -> Ready:
    async def ask() -> str | None:
        try:
            async with aiohttp.ClientSession() as session, session.get(url) as answer:
                return None if answer.status < 500 else str(answer.status)
        except aiohttp.ClientError as error:
            return f"{url}: {type(error).__name__}"

    return ask


@asynccontextmanager
async def reading(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def backstop(work: Work, clock: Clock) -> AsyncIterator[Contestant]:
    """`backstop serve`, `worker` and `projection`, and Kafka. Results are read by a `read_committed` consumer."""
    settings = {"BACKSTOP_POLL_RATE_MAX_PER_S": "2000", "BACKSTOP_FIRST_POLL_MS": str(round(POLL_S * 1000))}
    shape = Shape(
        folder=work.folder, environment=dict(os.environ), settings=settings, faults=json.dumps(work.profile), port=0,
        workers=work.workers,
    )  # fmt: skip
    async with running_system(shape, say, lambda _kill: None) as system:
        assert system.simulator_url is not None
        assert system.broker_pid is not None, "the broker must be one that this run started"

        def submission(job_id: str) -> tuple[str, Any]:
            body = {"job_id": job_id, "request": {"model": "gpt-bench", "input": job_id}}
            return f"{system.url}/v1/jobs", body

        workers = tuple(f"worker-{number + 1}" for number in range(work.workers)) if work.workers > 1 else ("worker",)
        app = ("serve", *workers, "projection")
        running = Contestant(system.simulator_url, system.supervisor, app, (system.broker_pid,), submission)
        running.killed = workers[:1] if work.workers > 1 else ()
        reader = ResultReader(system.runtime)
        await reader.start(from_beginning=True)

        async def read() -> None:
            async for result in reader.read():
                running.seen.setdefault(result.job_id, clock())

        try:
            async with reading(read()):
                yield running
        finally:
            await reader.stop()


@asynccontextmanager
async def plain(work: Work, clock: Clock) -> AsyncIterator[Contestant]:
    """One process and a PostgreSQL that syncs. A result is told by NOTIFY, in its own transaction."""
    with postgres(durable=True) as server:
        if server is None:
            raise SystemExit("PostgreSQL is not installed: apt-get install postgresql")
        async with _system(work, "plain", "/webhook", {"PEER_DATABASE_URL": server.url}, ()) as (running, url):

            def submission(job_id: str) -> tuple[str, Any]:
                return f"{url}/jobs", {"id": job_id, "text": job_id}

            running.submission, running.servers = submission, (server.pid,)
            connection = await psycopg.AsyncConnection.connect(server.url, autocommit=True)
            await connection.execute("LISTEN results")

            async def read() -> None:
                async for told in connection.notifies():
                    running.seen.setdefault(told.payload, clock())

            async with reading(read()):
                yield running
            await connection.close()


@asynccontextmanager
async def restate(work: Work, clock: Clock) -> AsyncIterator[Contestant]:
    """One process and Restate's server. Each caller is attached to its workflow, and gets the result so."""
    ports = Ports()
    ingress, admin, node = (ports.draw() for _ in range(3))
    server = Program(
        name="server",
        command=(str(RESTATE), "--no-logo"),
        environment={
            **os.environ, "RESTATE_DEFAULT_NUM_PARTITIONS": "4", "RESTATE_BASE_DIR": str(work.folder / "restate"),
            "RESTATE_LISTEN_MODE": "tcp", "RESTATE_DISABLE_TELEMETRY": "true", "RESTATE_LOG_FILTER": "warn",
            "RESTATE_INGRESS__BIND_ADDRESS": f"{HOST}:{ingress}", "RESTATE_ADMIN__BIND_ADDRESS": f"{HOST}:{admin}",
            "RESTATE_BIND_ADDRESS": f"{HOST}:{node}",
        },
        ready=answers(f"http://{HOST}:{admin}/health"),
    )  # fmt: skip
    webhook = f"http://{HOST}:{ingress}/Webhooks/openai"
    try:
        async with (
            _system(work, "workflow", webhook, {}, (server,)) as (running, url),
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            async with session.post(f"http://{HOST}:{admin}/deployments", json={"uri": url}) as answer:
                assert answer.status < 300, await answer.text()
            waits: set[asyncio.Task[None]] = set()

            async def attach(job_id: str) -> None:
                address = f"http://{HOST}:{ingress}/restate/workflow/Job/{job_id}/attach"
                async with session.get(address, timeout=aiohttp.ClientTimeout(total=None)) as answer:
                    await answer.read()
                    assert answer.status == 200, f"{job_id}: {answer.status}"
                running.seen.setdefault(job_id, clock())

            async def count() -> int:
                async with session.post(
                    f"http://{HOST}:{admin}/query",
                    json={"query": COMPLETED},
                    headers={"Accept": "application/json"},
                ) as answer:
                    return int((await answer.json())["rows"][0]["n"])

            pid = running.supervisor.pid("server")
            assert pid is not None
            running.servers = (pid,)
            running.submission = lambda job_id: (f"http://{HOST}:{ingress}/Job/{job_id}/run/send", job_id)
            if work.each:
                running.submitted = lambda job_id: waits.add(asyncio.create_task(attach(job_id)))
            else:
                running.count = count
            yield running
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
    finally:
        ports.release()


@asynccontextmanager
async def _system(
    work: Work, app: str, webhook: str, settings: Mapping[str, str], servers: Iterable[Program]
) -> AsyncIterator[tuple[Contestant, str]]:
    """A hand-made application with the simulator, and its address. `webhook`: an address, or a path of the app."""
    ports = Ports()
    at, simulator = ports.draw(), ports.draw()
    url = f"http://{HOST}:{at}"
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    shared = {
        **os.environ, **settings, "PEER_PORT": str(at), "PEER_PROVIDER_URL": f"http://{HOST}:{simulator}/v1",
        "PEER_PROVIDER_KEY": KEY, "PEER_WEBHOOK_SECRET": secret, "PEER_POLL_S": str(POLL_S),
    }  # fmt: skip
    programs = [
        Program("app", (str(PYTHON), str(HERE / "apps" / f"{app}.py")), shared, answers(f"{url}/health")),
        Program(
            "simulator",
            (
                *(sys.executable, "-P", "-m", "backstop.simulator", "--port", str(simulator)),
                *("--profile", json.dumps(work.profile), "--ledger-dir", str(work.folder / "ledgers")),
                *("--webhook-url", webhook if "://" in webhook else url + webhook),
            ),
            {**os.environ, "SIMULATOR_API_KEYS": KEY, "SIMULATOR_WEBHOOK_SECRETS": secret},
            answers(f"http://{HOST}:{simulator}/sim/health"),
        ),
        *servers,
    ]
    supervisor = Supervisor(programs, work.folder / "logs", say)
    try:
        await supervisor.start()
        yield Contestant(f"http://{HOST}:{simulator}", supervisor), url
    finally:
        await supervisor.stop()
        ports.release()


CONTESTANTS: Mapping[str, Start] = {"backstop": backstop, "FastAPI and PostgreSQL": plain, "Restate": restate}
