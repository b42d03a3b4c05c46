"""Health and metrics over HTTP: whether a process is live and ready, and if not, why.

`Health` collects conditions and probes; the routes only show them. A process with its own HTTP server adds the routes
to it; the worker and the projection serve them on a small server of their own.
"""

import asyncio
from typing import Any, Literal, NotRequired

import orjson
from aiohttp import web
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder
from typing_extensions import TypedDict

from backstop.runtime.http.routes import Answer, Route, declare
from backstop.runtime.process.clock import monotonic_s
from backstop.runtime.process.failpoints import armed
from backstop.runtime.process.probes import Probe
from backstop.runtime.release import release

Kind = Literal["live", "ready", "note", "start"]

LOOP_LAG_S_MAX = 5.0
LOOP_TICK_S = 0.5
SHUTDOWN_S = 2.0


class Verdict(TypedDict):
    """Whether all checks pass; if not, the reasons by the name of the check."""

    ok: bool
    reasons: dict[str, str]
    notes: NotRequired[dict[str, str]]
    """Faults of the deployment that stop no running process, by the name of the check. Absent if there are none."""


class Version(TypedDict):
    """The release that runs here."""

    version: str
    component: str
    failpoints: dict[str, str]
    """Test only: places at which this process is to fail, with the action."""


def _probe(path: str, name: str, says: str) -> Route:
    verdicts = (
        Answer(200, "All checks pass.", Verdict),
        Answer(503, "A check fails; `reasons` says why.", Verdict),
    )
    return Route("GET", path, name=name, says=says, access="public", answers=verdicts, head=True)


LIVEZ = _probe("/livez", "livez", "Whether the process makes progress; if not, restart it.")
READYZ = _probe("/readyz", "readyz", "Whether this process should get requests.")
STARTUPZ = _probe("/startupz", "startupz", "Whether this process has been ready once.")
METRICS = Route(
    "GET", "/metrics", name="metrics", says="Metrics for Prometheus; OpenMetrics where `Accept` asks for it.",
    access="public", head=True, answers=(Answer(200, "All metrics of the process.", str, "text/plain"),),
)  # fmt: skip
VERSION = Route(
    "GET", "/version", name="version", says="The release of this process.", access="public", head=True,
    answers=(Answer(200, "The release, the component, and armed failpoints.", Version),),
)  # fmt: skip


class Health:
    """Named checks with reasons. Ready when every expected condition is met and no probe complains."""

    def __init__(self, component: str) -> None:
        self.component = component
        self._conditions: dict[str, str | None] = {}
        self._probes: dict[str, tuple[Kind, Probe]] = {}
        self._was_ready = False

    def expect(self, *names: str) -> None:
        """Name conditions of readiness, which their parts later report with `met` or `unmet`."""
        for name in names:
            self._conditions.setdefault(name, "not yet")

    def met(self, name: str) -> None:
        self._conditions[name] = None

    def unmet(self, name: str, reason: str) -> None:
        self._conditions[name] = reason

    def watch(self, name: str, probe: Probe, kind: Kind = "ready") -> None:
        """Call `probe` at each health request. A `live` probe that complains gets the process
        restarted: use it only for faults that a restart repairs, such as no progress. The complaint of a `note` is
        shown, and changes no verdict. That of a `start` says what a process that is well has yet to do before it is
        ready: it is no trouble.
        """
        self._probes[name] = (kind, probe)

    def not_live(self) -> dict[str, str]:
        """Reasons for a restart, by check; empty if there are none."""
        return self._complaints("live")

    def not_ready(self) -> dict[str, str]:
        """Reasons why the process should get no work, by check; empty if there are none."""
        reasons = {name: reason for name, reason in self._conditions.items() if reason is not None}
        reasons |= self._complaints("ready") | self._complaints("start") | self.not_live()
        self._was_ready = self._was_ready or not reasons
        return reasons

    def trouble(self) -> str | None:
        """What the probes complain of, in one line; None if nothing. Conditions of a start are no trouble."""
        found = self._complaints("ready") | self.not_live()
        return "; ".join(found.values()) or None

    def notes(self) -> dict[str, str]:
        """Faults that stop no running process, by check; empty if there are none."""
        return self._complaints("note")

    def not_started(self) -> dict[str, str]:
        """As `not_ready`, until the process has been ready once; empty from then on."""
        return {} if self._was_ready else self.not_ready()

    def _complaints(self, kind: Kind) -> dict[str, str]:
        asked = {name: probe() for name, (of, probe) in self._probes.items() if of == kind}
        return {name: reason for name, reason in asked.items() if reason is not None}


def add_routes(
    app: web.Application, health: Health, registry: CollectorRegistry = REGISTRY, *, metrics: bool = True
) -> None:
    """Add `/livez /readyz /startupz /version` to `app`, and `/metrics` unless it is served elsewhere."""

    async def livez(_request: web.Request) -> web.Response:
        return _verdict(health.not_live())

    async def readyz(_request: web.Request) -> web.Response:
        return _verdict(health.not_ready(), health.notes())

    async def startupz(_request: web.Request) -> web.Response:
        return _verdict(health.not_started())

    async def show_metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def show_version(_request: web.Request) -> web.Response:
        return _json({"version": release(), "component": health.component, "failpoints": armed()})

    declare(app, LIVEZ, livez)
    declare(app, READYZ, readyz)
    declare(app, STARTUPZ, startupz)
    declare(app, VERSION, show_version)
    if metrics:
        declare(app, METRICS, show_metrics)
    health.watch("event_loop", LoopLag(app).complaint, "live")


class LoopLag:
    """The delay of the event loop's timers; beyond `LOOP_LAG_S_MAX` the process counts as hung.

    The last lag is kept for one tick, so that the first request after a long block still sees it.
    """

    def __init__(self, app: web.Application) -> None:
        self._lag_s = 0.0
        self._task: asyncio.Task[None] | None = None
        app.cleanup_ctx.append(self._run)

    def complaint(self) -> str | None:
        if self._lag_s <= LOOP_LAG_S_MAX:
            return None
        return f"the event loop was blocked for {self._lag_s:.1f} s"

    async def _run(self, _app: web.Application) -> Any:
        self._task = asyncio.create_task(self._measure(), name="loop-lag")
        yield
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _measure(self) -> None:
        while True:
            before_s = monotonic_s()
            await asyncio.sleep(LOOP_TICK_S)
            self._lag_s = monotonic_s() - before_s - LOOP_TICK_S


class HealthServer:
    """The routes on their own port. `port` 0 disables the server; after `start`, `bound_port` is the bound port."""

    def __init__(
        self, health: Health, port: int, host: str = "127.0.0.1", registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._health = health
        self._host = host
        self._port = port
        self._registry = registry
        self._runner: web.AppRunner | None = None
        self.bound_port = 0

    async def start(self) -> None:
        if self._port == 0:
            return
        app = web.Application()
        add_routes(app, self._health, self._registry)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        self.bound_port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


def _verdict(reasons: dict[str, str], notes: dict[str, str] | None = None) -> web.Response:
    verdict: Verdict = {"ok": not reasons, "reasons": reasons}
    if notes:
        verdict["notes"] = notes
    return _json(verdict, status=503 if reasons else 200)


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=orjson.dumps(value), status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )
