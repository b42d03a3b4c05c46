"""`/sim`: controls for tests and users, and the ledgers. Needs no key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson
from aiohttp import web

from backstop.simulator.catalogue import FAULTS
from backstop.simulator.chance import AimRequest
from backstop.simulator.config import EndpointProfile, PlannedEvent
from backstop.simulator.core import Simulator
from backstop.simulator.errors import ConfigError
from backstop.simulator.ids import response_id
from backstop.simulator.ledgers import LEDGER_NAMES, MEMORY_LINES_MAX
from backstop.simulator.loading import build, parse_object, to_json
from backstop.simulator.records import Ending

Control = Callable[[Simulator, web.Request], Awaitable[Any]]
_CONTENT: Final = {"content-type": "application/json"}


async def _health(_: Simulator, __: web.Request) -> Any:
    return {"ok": True}


async def _stats(simulator: Simulator, _: web.Request) -> Any:
    return simulator.stats()


async def _faults(simulator: Simulator, request: web.Request) -> Any:
    if request.method == "POST":
        simulator.change_profile(parse_object(await request.read()))
    return {"profile": to_json(simulator.profile), "faults": list(FAULTS)}


async def _aim(simulator: Simulator, request: web.Request) -> Any:
    if request.method == "DELETE":
        simulator.faults.clear_aims()
        return {"aims": []}
    if request.method == "GET":
        return {"aims": simulator.faults.aims()}
    wanted = parse_object(await request.read())
    return {"aim": simulator.faults.aim(build(AimRequest, wanted, "")).id}


async def _outage(simulator: Simulator, request: web.Request) -> Any:
    event = build(PlannedEvent, {**parse_object(await request.read()), "do": "outage"}, "")
    simulator.platform.begin_outage(event)
    return {"for_s": event.for_s}


async def _wave(simulator: Simulator, request: web.Request) -> Any:
    event = build(PlannedEvent, {**parse_object(await request.read()), "do": "wave"}, "")
    simulator.platform.begin_wave(event)
    return {"for_s": event.for_s, "factor": event.factor}


async def _restart(simulator: Simulator, request: web.Request) -> Any:
    body = await request.read()
    event = build(PlannedEvent, {**(parse_object(body) if body else {}), "do": "restart"}, "")
    return {"stuck": simulator.platform.restart(event)}


async def _incident(simulator: Simulator, request: web.Request) -> Any:
    if request.method == "POST":
        event = build(PlannedEvent, {**parse_object(await request.read()), "do": "incident"}, "")
        return {"incident": simulator.incidents.begin(event)}
    if request.method == "DELETE":
        number = request.query.get("incident")
        if number is not None and not number.isdecimal():
            raise ConfigError(f"incident: {number!r} must be a whole number")
        simulator.incidents.end(None if number is None else int(number))
    return {"incidents": simulator.incidents.shown()}


async def _limits(simulator: Simulator, request: web.Request) -> Any:
    if request.method == "POST":
        simulator.limits.begin_change(build(PlannedEvent, {**parse_object(await request.read()), "do": "limits"}, ""))
    if request.method == "DELETE":
        simulator.limits.end_changes()
    return simulator.limits.shown()


async def _lanes(simulator: Simulator, _: web.Request) -> Any:
    return {"lanes": simulator.lanes.shown()}


@dataclass(frozen=True, slots=True)
class _Endpoints:
    endpoints: tuple[EndpointProfile, ...]


async def _webhook(simulator: Simulator, request: web.Request) -> Any:
    if request.method == "POST":
        wanted = parse_object(await request.read())
        if set(wanted) == {"url", "secret"}:
            wanted = {"endpoints": [{"url": wanted["url"], "secrets": [wanted["secret"]]}]}
        simulator.use_endpoints(build(_Endpoints, wanted, "").endpoints)
    disabled = {target.endpoint.url: target.disabled for target in simulator.deliverer.targets}
    return {"endpoints": [to_json(each) | {"disabled": disabled[each.url]} for each in simulator.endpoints]}


@dataclass(frozen=True, slots=True)
class _Emit:
    response: str | None = None
    type: str = "response.completed"
    variant: str | None = None
    body: str | None = None
    webhook_id: str | None = None


async def _emit(simulator: Simulator, request: web.Request) -> Any:
    wanted = build(_Emit, parse_object(await request.read()), "")
    body = None if wanted.body is None else wanted.body.encode()
    response = wanted.response or response_id()
    ids = simulator.webhooks.emit(wanted.type, response, wanted.variant, body, wanted.webhook_id)
    return {"response": response, "webhook_ids": ids}


@dataclass(frozen=True, slots=True)
class _Finish:
    response: str
    status: Literal["completed", "failed", "incomplete", "cancelled"] = "completed"
    code: str | None = None
    reason: str | None = None
    webhook: bool = True


async def _finish(simulator: Simulator, request: web.Request) -> Any:
    wanted = build(_Finish, parse_object(await request.read()), "")
    stored = simulator.responses.get(wanted.response)
    if stored is None or not stored.is_open:
        raise ConfigError(f"response: {wanted.response!r} is not open")
    code = wanted.code or ("server_error" if wanted.status == "failed" else None)
    reason = wanted.reason or ("max_output_tokens" if wanted.status == "incomplete" else None)
    simulator.responses.end_now(stored, Ending(wanted.status, code, reason, webhook=wanted.webhook))
    return {"response": stored.id, "status": stored.status}


async def _ledger(simulator: Simulator, request: web.Request) -> web.Response:
    name = next((each for each in LEDGER_NAMES if each == request.match_info["name"]), None)
    if name is None:
        raise ConfigError(f"no such ledger; there are {', '.join(LEDGER_NAMES)}")
    since, limit = request.query.get("since", "0"), request.query.get("limit", str(MEMORY_LINES_MAX))
    if not since.isdecimal() or not limit.isdecimal():
        raise ConfigError("since and limit must be whole numbers")
    ledger = simulator.ledgers.by_name(name)
    headers = {
        "content-type": "application/x-ndjson",
        "x-sim-first": str(ledger.first),
        "x-sim-last": str(ledger.last),
    }
    return web.Response(body=ledger.read(int(since), int(limit)), headers=headers)


_ROUTES: Final[tuple[tuple[str, str, Control], ...]] = (
    ("GET", "/sim/health", _health),
    ("GET", "/sim/stats", _stats),
    ("GET", "/sim/faults", _faults),
    ("POST", "/sim/faults", _faults),
    ("GET", "/sim/aim", _aim),
    ("POST", "/sim/aim", _aim),
    ("DELETE", "/sim/aim", _aim),
    ("POST", "/sim/outage", _outage),
    ("POST", "/sim/wave", _wave),
    ("POST", "/sim/restart", _restart),
    ("GET", "/sim/incident", _incident),
    ("POST", "/sim/incident", _incident),
    ("DELETE", "/sim/incident", _incident),
    ("GET", "/sim/lanes", _lanes),
    ("GET", "/sim/limits", _limits),
    ("POST", "/sim/limits", _limits),
    ("DELETE", "/sim/limits", _limits),
    ("GET", "/sim/webhook", _webhook),
    ("POST", "/sim/webhook", _webhook),
    ("POST", "/sim/emit", _emit),
    ("POST", "/sim/finish", _finish),
    ("GET", "/sim/ledger/{name}", _ledger),
)


def add_controls(app: web.Application, simulator: Simulator) -> None:
    """Add the routes under `/sim`."""
    for method, path, control in _ROUTES:
        app.router.add_route(method, path, _answering(simulator, control))


def _answering(simulator: Simulator, control: Control) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            result = await control(simulator, request)
        except ConfigError as error:
            return web.Response(status=400, body=orjson.dumps({"error": str(error)}), headers=_CONTENT)
        if isinstance(result, web.StreamResponse):
            return result
        return web.Response(body=orjson.dumps(result), headers=_CONTENT)

    return answer
