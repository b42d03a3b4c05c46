"""The whole of Backstop on this machine, as one context manager for `backstop dev` and `backstop demo`.

It starts a broker (see `broker/chain.py`), the topics, the simulator of OpenAI, the HTTP API, workers and projection,
each as a process, in parallel where their needs allow it. The end of the block stops all processes and removes all data
that is not to be kept.
"""

import asyncio
import base64
import os
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from backstop.dev import broker
from backstop.dev.broker.chain import name_of
from backstop.dev.ports import HOST, Ports
from backstop.dev.supervisor import Program, Ready, Supervisor, Tell
from backstop.runtime.clear_text import is_here
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.http.keys import write_private
from backstop.runtime.kafka.topics import create_topics, delete_topics, refuse_fatal
from backstop.runtime.process.clock import monotonic_s
from backstop.runtime.read_settings import read
from backstop.runtime.secret_files import secret_of
from backstop.runtime.settings import RuntimeSettings

PORT_PREFERRED = 8080
PROBE_TIMEOUT_S = 2.0
BROKER_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class RealOpenAI:
    """The real provider, as the environment names it. `webhook_secrets` is empty where no webhook can come."""

    api_key: str
    base_url: str | None
    webhook_secrets: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What to start. The children inherit `environment`; `settings` override it."""

    folder: Path
    """All files go below this folder. It exists, and no other run uses it."""
    keep: bool = False
    """Whether a broker started here keeps its data in `folder`. The caller made the folder and removes it."""
    environment: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)
    recorded_bootstrap: str | None = None
    """The address of a broker that runs already (`backstop broker up`) and keeps running."""
    port: int = PORT_PREFERRED
    workers: int = 1
    partitions: int = 4
    faults: str = "calm"
    seed: int = 1
    time_scale: float = 1.0
    openai: RealOpenAI | None = None
    """None: the simulator is used."""
    webhooks: bool = False
    """Whether outgoing webhooks are delivered, by one more process."""


@dataclass(slots=True)
class System:
    """A running system and its addresses."""

    url: str
    bootstrap: str
    broker_kind: str
    runtime: RuntimeSettings
    simulator_url: str | None
    api_key: str
    ledgers: Path
    database: Path
    supervisor: Supervisor
    started_in_s: float
    broker_pid: int | None = None
    """The pid of a node started here, for measurements and tests."""
    broker_restarts: int = 0

    @property
    def restarts(self) -> dict[str, int]:
        return {**self.supervisor.restarts, "broker": self.broker_restarts}


@dataclass(frozen=True, slots=True)
class _SystemPlaces:
    """Ports and secrets, chosen before any child starts, so that a restarted child keeps them."""

    serve: int
    simulator: int
    projection: int
    outgoing: int
    workers: tuple[int, ...]
    webhook_secret: str
    api_key: str


@asynccontextmanager
async def running_system(
    shape: Shape, tell: Tell, on_kill: Callable[[Callable[[], None]], None]
) -> AsyncIterator[System]:
    """Start everything, yield it, stop everything. `on_kill` receives the function that kills everything at once, for a
    second Ctrl-C.

    :raises BrokerError: no broker is available; says what was tried and what to install.
    :raises StartError: a process did not start; shows the end of its log.
    :raises ConfigurationError: a topic or a setting is wrong.
    """
    began_s = monotonic_s()
    ports = Ports()
    places = _draw_places(shape, ports)
    stack = ExitStack()
    kafka: broker.Owned | None = None
    watcher: asyncio.Task[None] | None = None
    supervisor: Supervisor | None = None
    own_prefix: RuntimeSettings | None = None
    try:
        kafka = await _enter(stack, _broker(shape))
        runtime, throwaway = _runtime_settings(shape, kafka)
        own_prefix = runtime if throwaway else None
        tell(f"broker: {kafka.bootstrap} ({name_of(kafka.source)}), after {monotonic_s() - began_s:.1f} s")
        refuse_fatal((await create_topics(runtime)).differences)
        supervisor = Supervisor(_programs(shape, places, runtime), shape.folder / "logs", tell)
        node = kafka.node
        on_kill(lambda: _kill(supervisor, node))
        await supervisor.start()
        system = System(
            url=f"http://{HOST}:{places.serve}",
            bootstrap=kafka.bootstrap,
            broker_kind=name_of(kafka.source),
            runtime=runtime,
            simulator_url=None if shape.openai else f"http://{HOST}:{places.simulator}",
            api_key=places.api_key,
            ledgers=shape.folder / "ledgers",
            database=_database(shape),
            supervisor=supervisor,
            started_in_s=monotonic_s() - began_s,
            broker_pid=node.pid if node is not None else None,
        )
        if node is not None:
            watcher = asyncio.create_task(_keep_broker(node, system, tell), name="keep-broker")
        yield system
    finally:
        if supervisor is not None:
            await supervisor.stop()
        if watcher is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        if own_prefix is not None and kafka is not None:
            with suppress(Exception):  # the broker may have ended, and its topics with it
                await delete_topics(own_prefix)
        await asyncio.to_thread(stack.close)
        ports.release()


def real_openai(environment: Mapping[str, str]) -> RealOpenAI:
    """The provider that the environment names.

    :raises ConfigurationError: there is neither a key nor BACKSTOP_OPENAI_KEYLESS.
    """
    key = secret_of(environment, "OPENAI_API_KEY")
    if not key and not environment.get("BACKSTOP_OPENAI_KEYLESS"):
        raise ConfigurationError(
            "the real OpenAI needs a key: set OPENAI_API_KEY, or BACKSTOP_OPENAI_KEYLESS=true for a server without keys"
        )
    webhooks = secret_of(environment, "BACKSTOP_WEBHOOK_SECRETS") or secret_of(environment, "OPENAI_WEBHOOK_SECRET")
    base_url = environment.get("BACKSTOP_OPENAI_BASE_URL") or environment.get("OPENAI_BASE_URL")
    return RealOpenAI(key, base_url, webhooks)


async def _enter(stack: ExitStack, context: AbstractContextManager[broker.Owned]) -> broker.Owned:
    """Enter a blocking context in a thread. A cancelled call still waits for it, so that a started broker is
    stopped.
    """
    entering = asyncio.create_task(asyncio.to_thread(stack.enter_context, context))
    try:
        return await asyncio.shield(entering)
    except asyncio.CancelledError:
        await asyncio.gather(entering, return_exceptions=True)
        raise


def _broker(shape: Shape) -> AbstractContextManager[broker.Owned]:
    environment = dict(shape.environment)
    if shape.recorded_bootstrap:
        environment["KAFKA_BOOTSTRAP_SERVERS"] = shape.recorded_bootstrap
    return broker.owned(environment, shape.folder if shape.keep else None)


def _runtime_settings(shape: Shape, kafka: broker.Owned) -> tuple[RuntimeSettings, bool]:
    """The settings that all parts share, and whether to delete the topics at the end.

    A broker started here takes its topics with it. On a given broker, topics that are not kept get a prefix of their
    own.
    """
    ours = kafka.node is not None or kafka.container is not None
    chosen = shape.settings.get("BACKSTOP_TOPIC_PREFIX") or shape.environment.get("BACKSTOP_TOPIC_PREFIX")
    throwaway = not ours and not shape.keep and not chosen
    prefix = chosen or (f"backstop-dev-{secrets.token_hex(4)}." if throwaway else "backstop.")
    runtime = read(
        RuntimeSettings,
        kafka_bootstrap_servers=kafka.bootstrap,
        topic_prefix=prefix,
        partitions=shape.partitions,
        data_dir=shape.folder,
        blob_dir=None if _names_bucket(shape) else shape.folder / "blobs",
    )
    return runtime, throwaway


def _draw_places(shape: Shape, ports: Ports) -> _SystemPlaces:
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    return _SystemPlaces(
        serve=ports.draw(shape.port),
        simulator=ports.draw(),
        projection=ports.draw(),
        outgoing=ports.draw() if shape.webhooks else 0,
        workers=tuple(ports.draw() for _ in range(shape.workers)),
        webhook_secret=shape.openai.webhook_secrets if shape.openai else secret,
        api_key=shape.openai.api_key if shape.openai else f"sk-dev-{secrets.token_hex(12)}",
    )


def _database(shape: Shape) -> Path:
    return shape.folder / "readmodel.db"


def _programs(shape: Shape, places: _SystemPlaces, runtime: RuntimeSettings) -> list[Program]:
    base = _environment(shape, places, runtime)
    programs = [
        _ours("serve", base, places.serve, BACKSTOP_PORT=str(places.serve)),
        _ours("projection", base, places.projection, BACKSTOP_READMODEL_HEALTH_PORT=str(places.projection)),
    ]
    for number, port in enumerate(places.workers, start=1):
        name = "worker" if shape.workers == 1 else f"worker-{number}"
        data_dir = str(shape.folder / f"worker-{number}")
        programs.append(_ours(name, base, port, BACKSTOP_HEALTH_PORT=str(port), BACKSTOP_DATA_DIR=data_dir))
    if shape.webhooks:
        programs.append(_ours("outgoing", base, places.outgoing, BACKSTOP_OUTGOING_HEALTH_PORT=str(places.outgoing)))
    if shape.openai is None:
        programs.append(_simulator(shape, places, base))
    return programs


def _environment(shape: Shape, places: _SystemPlaces, runtime: RuntimeSettings) -> dict[str, str]:
    provider: dict[str, str] = {"OPENAI_API_KEY": places.api_key}
    base_url = shape.openai.base_url if shape.openai else f"http://{HOST}:{places.simulator}/v1"
    if base_url:
        provider |= {"OPENAI_BASE_URL": base_url, "BACKSTOP_OPENAI_BASE_URL": base_url}
    # These are set by value below, and must not be set by file as well.
    given = {
        "OPENAI_API_KEY_FILE",
        "BACKSTOP_OPENAI_API_KEY_FILE",
        "BACKSTOP_WEBHOOK_SECRETS_FILE",
        "OPENAI_WEBHOOK_SECRET_FILE",
    }
    return {
        **{name: value for name, value in shape.environment.items() if name not in given},
        **asked_directly(shape.environment),
        "BACKSTOP_METRICS_PUBLIC": "true",
        "PYTHONUNBUFFERED": "1",
        "KAFKA_BOOTSTRAP_SERVERS": runtime.kafka_bootstrap_servers,
        "BACKSTOP_TOPIC_PREFIX": runtime.topic_prefix,
        "BACKSTOP_PARTITIONS": str(runtime.partitions),
        "BACKSTOP_HOST": HOST,
        "BACKSTOP_DATA_DIR": str(shape.folder),
        **({} if _names_bucket(shape) else {"BACKSTOP_BLOB_DIR": str(runtime.blobs_path)}),
        "BACKSTOP_DATABASE_URL": f"sqlite:///{_database(shape)}",
        "BACKSTOP_WEBHOOK_SECRETS": places.webhook_secret,
        "BACKSTOP_LOG_FORMAT": shape.environment.get("BACKSTOP_LOG_FORMAT", "console"),
        **provider,
        **_development(shape),
        **(_webhooks(shape, runtime.kafka_bootstrap_servers) if shape.webhooks else {}),
        **shape.settings,
    }


def _names_bucket(shape: Shape) -> bool:
    return bool(shape.settings.get("BACKSTOP_BLOBS") or shape.environment.get("BACKSTOP_BLOBS"))


def asked_directly(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that make requests to this machine bypass the environment's proxy."""
    others = environment.get("no_proxy") or environment.get("NO_PROXY", "")
    direct = ",".join(part for part in (others, HOST, "localhost") if part)
    return {"NO_PROXY": direct, "no_proxy": direct}


def _development(shape: Shape) -> dict[str, str]:
    """Development mode, in which callers need no key, unless the environment or the settings name a keys file."""
    named = shape.settings.get("BACKSTOP_KEYS_FILE") or shape.environment.get("BACKSTOP_KEYS_FILE")
    return {"BACKSTOP_DEVELOPMENT": "false" if named else "true"}


def _webhooks(shape: Shape, bootstrap: str) -> dict[str, str]:
    """Settings of the receiver and the sender. A generated key is kept in the folder of the data that it signs."""
    # Endpoints under test run on this machine. With a broker elsewhere, loopback addresses stay refused.
    settings = {"BACKSTOP_OUTGOING_LOOPBACK": "true"} if is_here(bootstrap) else {}
    if not secret_of(shape.environment, "BACKSTOP_OUTGOING_KEYS"):
        kept = shape.folder / "outgoing.key"
        if not kept.exists():
            write_private(kept, base64.b64encode(secrets.token_bytes(32)))
        settings["BACKSTOP_OUTGOING_KEYS"] = kept.read_text()
    return settings


def _ours(name: str, base: Mapping[str, str], port: int, **settings: str) -> Program:
    part = name.split("-", maxsplit=1)[0]
    return Program(
        name=name,
        command=(sys.executable, "-P", "-m", "backstop.cli", part),
        environment={**base, **settings},
        ready=_answers(f"http://{HOST}:{port}/readyz"),
    )


def _simulator(shape: Shape, places: _SystemPlaces, base: Mapping[str, str]) -> Program:
    return Program(
        name="simulator",
        command=(
            *(sys.executable, "-P", "-m", "backstop.simulator", "--port", str(places.simulator)),
            *("--profile", shape.faults, "--seed", str(shape.seed), "--time-scale", f"{shape.time_scale:g}"),
            *("--ledger-dir", str(shape.folder / "ledgers")),
            *("--webhook-url", f"http://{HOST}:{places.serve}/webhooks/openai"),
        ),
        environment={
            **base,
            "SIMULATOR_API_KEYS": places.api_key,
            "SIMULATOR_WEBHOOK_SECRETS": places.webhook_secret,
        },
        ready=_answers(f"http://{HOST}:{places.simulator}/sim/health"),
    )


def _answers(url: str) -> Ready:
    async def ask() -> str | None:
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
                return None if answer.status == 200 else (await answer.text())[:500]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"{url}: {type(error).__name__}"

    return ask


async def _keep_broker(node: broker.Broker, system: System, tell: Tell) -> None:
    """Restart the broker on its ports and data whenever it ends."""
    while True:
        await asyncio.sleep(BROKER_POLL_S)
        if node.running:
            continue
        tell(f"the broker ended; restarting it (see {node.log})")
        try:
            await asyncio.to_thread(node.start)
        except broker.BrokerError as error:
            tell(f"the broker does not start: {error}")
            continue
        system.broker_restarts += 1


def _kill(supervisor: Supervisor | None, node: broker.Broker | None) -> None:
    if supervisor is not None:
        supervisor.kill()
    if node is not None and node.running:
        os.kill(node.pid, 9)


def remove_folder(folder: Path) -> None:
    """Remove the files of a system whose processes have all ended."""
    shutil.rmtree(folder, ignore_errors=True)
