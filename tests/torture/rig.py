"""All processes of a run: a broker with a listener and a proxy for each kind of client, the simulator, and
Backstop's.
"""

import asyncio
import base64
import os
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from backstop.dev.broker import Broker, local_kafka
from backstop.dev.broker.jvm import NodeOptions
from backstop.dev.broker.node import draw_ports
from backstop.dev.ports import HOST, Ports
from backstop.dev.system import asked_directly
from backstop.runtime.kafka.topics import create_topics, refuse_fatal
from backstop.runtime.settings import RuntimeSettings
from tests.support.fault_proxy import FaultProxy
from tests.torture.children import Child, Deal, Kind, Log, Ready
from tests.torture.plan import FIRST_USD, FREEZE_S, SETTINGS, TIME_SCALE, Plan, budget_of
from tests.torture.tree import copy_tree

LISTENERS: dict[str, Kind] = {"CLIENT": "worker", "SERVE": "serve", "PROJECTION": "projection"}
"""Listener of the broker → whose it is."""

PROBE_TIMEOUT_S = 2.0
READY_WITHIN_S = 240.0
"""Without it a run can't be judged. On two cores that other work keeps busy, eight processes took 90 s to start."""


@dataclass(slots=True)
class Places:
    """Addresses and secrets; they stay the same from start to start."""

    serve: int
    simulator: int
    health: dict[str, int]
    webhook_secret: str
    api_key: str


@dataclass(slots=True)
class Rig:
    """What runs. `proxies` are named after the two parties between which they stand."""

    plan: Plan
    broker: Broker
    proxies: dict[str, FaultProxy]
    children: dict[str, Child]
    log: Log
    places: Places
    runtime: RuntimeSettings
    """For the harness itself: past all proxies."""
    http: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.places.serve}"

    @property
    def ledgers(self) -> Path:
        return self.plan.folder / "ledgers"

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.plan.folder / 'readmodel.db'}"

    def of_kind(self, kind: Kind) -> list[Child]:
        return [child for child in self.children.values() if child.kind == kind]

    def up(self, kind: Kind) -> list[Child]:
        return [child for child in self.of_kind(kind) if child.up]

    def environment(self, kind: Kind) -> dict[str, str]:
        return _environment(self.plan, self.places, self.proxies, self.runtime, kind)

    async def control(self, path: str, body: dict[str, object]) -> None:
        """Call a control of the simulator. A failed call is ignored, as the simulator may be down."""
        url = f"http://{HOST}:{self.places.simulator}/sim/{path}"
        with suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with self.http.post(url, json=body, timeout=aiohttp.ClientTimeout(total=5)) as answer:
                text = await answer.text()
                assert answer.status == 200, f"{path}: {answer.status} {text}"

    async def ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Wait until all that is to be up is ready."""
        await asyncio.gather(*(child.until_ready(within_s) for child in self.children.values() if child.up))

    def kill_all(self) -> None:
        """At once, without waiting: for a second Ctrl-C."""
        for child in self.children.values():
            child.kill_for_good()
        if self.broker.running:
            self.broker.kill()


@asynccontextmanager
async def running(plan: Plan, deal: Deal) -> AsyncIterator[Rig]:
    """Start everything; end everything, whatever happens."""
    ports = Ports()
    proxies = {name: FaultProxy(0) for name in (*(f"{kind}-broker" for kind in LISTENERS.values()), *_HTTP_LINKS)}
    broker: Broker | None = None
    children: dict[str, Child] = {}
    http = aiohttp.ClientSession()
    try:
        copy_tree(plan.code, plan.patch)
        for proxy in proxies.values():
            await proxy.start()
        broker = _broker(plan, proxies)
        await _in_thread(broker.start)
        runtime = RuntimeSettings(
            kafka_bootstrap_servers=broker.direct, topic_prefix="torture.", partitions=plan.partitions,
            data_dir=plan.folder, blob_dir=plan.folder / "blobs",
        )  # fmt: skip
        refuse_fatal((await create_topics(runtime)).differences)
        places = _places(plan, ports)
        proxies["worker-simulator"].target = (HOST, places.simulator)
        proxies["simulator-serve"].target = (HOST, places.serve)
        log = Log()
        rig = Rig(plan, broker, proxies, children, log, places, runtime, http)
        (plan.folder / "logs").mkdir(exist_ok=True)
        for child in _children(rig, deal):
            children[child.name] = child
        for child in children.values():
            child.start()
        await rig.ready()
        yield rig
    finally:
        try:
            await _end(children)
        finally:
            if broker is not None:
                await _in_thread(broker.stop)
            for proxy in proxies.values():
                await proxy.stop()
            await http.close()
            ports.release()


_HTTP_LINKS = ("worker-simulator", "simulator-serve")


async def _end(children: dict[str, Child]) -> None:
    """Stop the processes in the order of the flow, senders first."""
    for kinds in (("simulator",), ("serve", "worker"), ("projection",)):
        ends = [child.stop() for child in children.values() if child.kind in kinds]
        for outcome in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(outcome, BaseException):
                print(f"torture: {outcome!r}", file=sys.stderr)
    for child in children.values():
        child.kill_for_good()


async def _in_thread(work: object) -> None:
    """Blocking work; a cancelled wait still waits for it, or what it starts would be left behind."""
    assert callable(work)
    task = asyncio.create_task(asyncio.to_thread(work))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


def _broker(plan: Plan, proxies: dict[str, FaultProxy]) -> Broker:
    ports, more = draw_ports(), draw_ports()
    bound = {"CLIENT": ports.client, "SERVE": more.client, "PROJECTION": more.controller}
    for name, kind in LISTENERS.items():
        proxies[f"{kind}-broker"].target = (HOST, bound[name])
    listeners = [f"{name}://{HOST}:{port}" for name, port in bound.items()]
    told = [f"{name}://{proxies[f'{kind}-broker'].address}" for name, kind in LISTENERS.items()]
    direct = f"DIRECT://{HOST}:{ports.direct}"
    names = (*LISTENERS, "DIRECT", "CONTROLLER")
    return Broker(
        local_kafka(os.environ),
        plan.folder / "kafka",
        ports=ports,
        options=NodeOptions(
            advertised=proxies["worker-broker"].address,
            overrides={
                "listeners": ",".join([*listeners, direct, f"CONTROLLER://{HOST}:{ports.controller}"]),
                "advertised.listeners": ",".join([*told, direct]),
                "inter.broker.listener.name": "DIRECT",
                "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in names),
            },
        ),
    )


def _places(plan: Plan, ports: Ports) -> Places:
    names = [f"worker-{number}" for number in range(1, plan.workers + 1)]
    names += [f"projection-{number}" for number in range(1, plan.projections + 1)]
    return Places(
        serve=ports.draw(),
        simulator=ports.draw(),
        health={name: ports.draw() for name in names},
        webhook_secret="whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
        api_key=f"sk-torture-{secrets.token_hex(8)}",
    )


def _environment(
    plan: Plan, places: Places, proxies: dict[str, FaultProxy], runtime: RuntimeSettings, kind: Kind
) -> dict[str, str]:
    base_url = f"http://{proxies['worker-simulator'].address}/v1"
    broker = proxies[f"{kind}-broker"].address if kind != "simulator" else runtime.kafka_bootstrap_servers
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("BACKSTOP_", "OPENAI_", "KAFKA_"))
    }
    return {
        **inherited,
        **asked_directly(inherited),
        **SETTINGS,
        "PYTHONPATH": str(plan.code),
        "KAFKA_BOOTSTRAP_SERVERS": broker,
        "BACKSTOP_TOPIC_PREFIX": runtime.topic_prefix,
        "BACKSTOP_PARTITIONS": str(runtime.partitions),
        "BACKSTOP_LIMITS": plan.limits,
        **(budget_of(FIRST_USD) if plan.budget else {}),
        "BACKSTOP_METRICS_PUBLIC": "true",
        "BACKSTOP_HOST": HOST,
        "BACKSTOP_DEVELOPMENT": "true",
        "BACKSTOP_DATA_DIR": str(plan.folder),
        "BACKSTOP_BLOB_DIR": str(runtime.blobs_path),
        "BACKSTOP_DATABASE_URL": f"sqlite:///{plan.folder / 'readmodel.db'}",
        "BACKSTOP_WEBHOOK_SECRETS": places.webhook_secret,
        "OPENAI_API_KEY": places.api_key,
        "BACKSTOP_OPENAI_BASE_URL": base_url,
    }


def _children(rig: Rig, deal: Deal) -> Iterator[Child]:
    plan, places = rig.plan, rig.places

    def child(name: str, kind: Kind, command: tuple[str, ...], port: int, ready_path: str, **settings: str) -> Child:
        return Child(
            name, kind, command, {**rig.environment(kind), **settings}, plan.code,
            plan.folder / "logs" / f"{name}.log", _answers(rig.http, f"http://{HOST}:{port}{ready_path}"), rig.log,
            deal, FREEZE_S,
        )  # fmt: skip

    cli = (sys.executable, "-P", "-m", "backstop.cli")
    yield child(
        "simulator", "simulator", _simulator(rig), places.simulator, "/sim/health",
        SIMULATOR_API_KEYS=places.api_key, SIMULATOR_WEBHOOK_SECRETS=places.webhook_secret,
    )  # fmt: skip
    yield child("serve", "serve", (*cli, "serve"), places.serve, "/readyz", BACKSTOP_PORT=str(places.serve))
    for name, port in places.health.items():
        if name.startswith("worker"):
            yield child(
                name, "worker", (*cli, "worker"), port, "/readyz", BACKSTOP_HEALTH_PORT=str(port),
                BACKSTOP_DATA_DIR=str(plan.folder / name), BACKSTOP_WORKER_INSTANCE_ID=name,
            )  # fmt: skip
        else:
            yield child(
                name, "projection", (*cli, "projection"), port, "/livez", BACKSTOP_READMODEL_HEALTH_PORT=str(port)
            )


def _simulator(rig: Rig) -> tuple[str, ...]:
    plan, places = rig.plan, rig.places
    return (
        *(sys.executable, "-P", "-m", "backstop.simulator", "--port", str(places.simulator)),
        *("--profile", plan.faults, "--seed", str(plan.seed), "--time-scale", f"{TIME_SCALE:g}"),
        *("--ledger-dir", str(rig.ledgers)),
        *("--webhook-url", f"http://{rig.proxies['simulator-serve'].address}/webhooks/openai"),
    )


def _answers(http: aiohttp.ClientSession, url: str) -> Ready:
    async def ask() -> bool:
        try:
            async with http.get(url, timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    return ask
