"""One call of `/v1`, from the key to the ledger: the steps that all endpoints share."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import orjson
from aiohttp import web

from backstop.simulator.answers import HttpAnswer, error, failure, wrong_key
from backstop.simulator.catalogue import ArmedFault
from backstop.simulator.chance import FaultTarget
from backstop.simulator.core import Simulator
from backstop.simulator.records import Stored
from backstop.simulator.replies import reshape
from backstop.simulator.wire import SILENT

Op = Literal["create", "poll", "stream", "cancel", "delete", "items"]


@dataclass(slots=True)
class ApiCall:
    """The data of a call so far, for the ledger's line."""

    op: Op
    request: web.Request
    body: bytes
    project: int = -1
    stored: Stored | None = None
    model: str | None = None
    target: FaultTarget = field(default_factory=FaultTarget)
    fault: str | None = None
    streams_from: int | None = None
    stream_fault: ArmedFault | None = None


Handler = Callable[[Simulator, ApiCall], Awaitable[HttpAnswer]]
Streamer = Callable[[Simulator, ApiCall], Awaitable[web.StreamResponse]]


async def serve(
    simulator: Simulator, op: Op, request: web.Request, handle: Handler, stream: Streamer
) -> web.StreamResponse:
    """Answer one call: key, platform, `handle`, ledger, and then the wire (or `stream`, if the call asks for one)."""
    started_s = simulator.clock.now_s()
    call, answer = ApiCall(op, request, b""), None
    try:
        call.body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        answer = error(413, "Your request body is too large.", code="request_too_large")
    answer = answer or _refused_unread(simulator, call) or await handle(simulator, call)
    if simulator.profile.errors != "openai":
        answer = reshape(answer, simulator.profile.errors)
    _record(simulator, call, answer)
    if call.streams_from is not None:
        await simulator.wire.hold(request, answer.wait_real_s)
        return await stream(simulator, call)
    headers = {
        "x-request-id": f"req_{secrets.token_hex(16)}",
        "openai-processing-ms": str(round((simulator.clock.now_s() - started_s) * 1000)),
        "openai-version": "2020-10-01",
        "openai-organization": "org-sim",
        **answer.headers,
    }
    return await simulator.wire.send(request, replace(answer, headers=headers))


def strike(simulator: Simulator, call: ApiCall, fault: ArmedFault | None) -> ArmedFault | None:
    """Record that `fault` strikes this call."""
    if fault is not None:
        call.fault = fault.name
        simulator.struck[fault.name] += 1
    return fault


def redirect(call: ApiCall) -> HttpAnswer:
    """307 to the same address."""
    return HttpAnswer(307, b"", headers={"location": str(call.request.rel_url)})


def _refused_unread(simulator: Simulator, call: ApiCall) -> HttpAnswer | None:
    scheme, _, key = call.request.headers.get("authorization", "").partition(" ")
    project = simulator.projects.get(key) if scheme == "Bearer" else None
    if project is None:
        return wrong_key()
    call.project = project
    if (answer := simulator.platform.refusal()) is not None:
        call.fault = "outage"
        return answer
    model = _model(simulator, call) if simulator.incidents.need_model else None
    if (answer := simulator.incidents.answer(call.op, project, model)) is not None:
        call.fault = "incident"
        simulator.struck["incident"] += 1
        return answer
    number = str(simulator.ledgers.calls.last)
    if strike(simulator, call, simulator.faults.one("platform", FaultTarget(), number, (), 1)):
        return failure(500)
    return None


def _model(simulator: Simulator, call: ApiCall) -> str | None:
    """The model of a call; read from the body or the path where the call was not handled."""
    if call.model is not None:
        return call.model
    if call.op != "create":
        stored = simulator.responses.get(call.request.match_info["response_id"])
        return None if stored is None else stored.request.model
    try:
        model = orjson.loads(call.body)["model"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return model if isinstance(model, str) else None


def _record(simulator: Simulator, call: ApiCall, answer: HttpAnswer) -> None:
    model = _model(simulator, call)
    if call.op == "create":
        simulator.lanes.count(call.project, model, accepted=call.stored is not None)
    target = call.stored.target if call.stored is not None else call.target
    status = 0 if answer.sabotage in SILENT else answer.status
    simulator.answered[f"{call.op} {status}"] += 1
    simulator.ledgers.calls.write(
        op=call.op,
        response=target.response or call.request.match_info.get("response_id"),
        job=target.job,
        attempt=target.attempt,
        project=call.project,
        model=model,
        status=status,
        fault=call.fault,
        delivered=answer.sabotage is None,
    )
