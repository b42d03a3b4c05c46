"""`POST /v1/responses`: limits, then faults, then acceptance."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Final, Literal

from backstop.simulator.answers import HttpAnswer, bad_request, error, failure, gateway, html, wrong_key
from backstop.simulator.around import answer_of
from backstop.simulator.calls import ApiCall, redirect, strike
from backstop.simulator.catalogue import ArmedFault
from backstop.simulator.core import Simulator
from backstop.simulator.planning import ending_of, make_plan
from backstop.simulator.records import CreateRequest, Ending, JobTally, Stored
from backstop.simulator.replies import Reply, parse_reply
from backstop.simulator.requests import read_create
from backstop.simulator.streaming import EVENTS, error_event
from backstop.simulator.wire import spoil

HIDDEN_S: Final = 5.0
LOCKED_S: Final = 10.0
_POLL_AROUND_S: Final = 0.25


async def create(simulator: Simulator, call: ApiCall) -> HttpAnswer:
    """Accept a response or refuse it; either may be spoiled on the way back."""
    request = read_create(call.body, call.request.headers, call.project, simulator.profile)
    if isinstance(request, HttpAnswer):
        return request
    call.target, call.model = request.target, request.model
    known = _known(simulator, request)
    if known is not None:
        call.stored = known
        return _with_limits(simulator, request, answer_of(known))
    refusal = simulator.limits.charge(request.lane, request) or _over_open_max(simulator, request)
    if refusal is not None:
        return refusal
    tally, key = _count_call(simulator, request)
    calls = tally.calls if tally is not None else 1
    fault = _locked(simulator, tally, simulator.faults.one("create", request.target, key, request.directives, calls))
    strike(simulator, call, fault)
    if fault is not None and not fault.what.startswith(_ACCEPTED):
        return _refused(simulator, call, request, fault)
    stored = _accept(simulator, request, tally, key, fault)
    call.stored = stored
    answer = _with_limits(simulator, request, await _reply(simulator, call, stored, fault))
    if fault is None or not fault.what.startswith("accept_"):
        return answer
    kind = fault.what.removeprefix("accept_")
    slow_real_s = fault.number(simulator.profile.slow_real_s)
    spoilt = gateway(int(kind)) if kind in _BY_A_GATEWAY else spoil(answer, kind, slow_real_s)
    if not spoilt.wait_real_s and fault.what != "accept_202":
        call.streams_from = None
    return spoilt


def _known(simulator: Simulator, request: CreateRequest) -> Stored | None:
    """The response made earlier with this idempotency key, if the profile honours keys."""
    if request.idempotency_key is None or simulator.profile.idempotency != "honoured":
        return None
    return simulator.responses.by_idempotency_key(request.idempotency_key, request.project)


def _locked(simulator: Simulator, tally: JobTally | None, fault: ArmedFault | None) -> ArmedFault | None:
    """The lock that holds this job now, or begins to; once in a job's life, however often it is drawn. Else `fault`."""
    now_s = simulator.clock.now_s()
    if tally is not None and tally.locked_by is not None and now_s < tally.locked_until_s:
        return tally.locked_by
    if fault is None or fault.what not in _LOCKS or tally is None:
        return fault
    if tally.locked_by is not None:
        return None
    tally.locked_by = fault
    tally.locked_until_s = now_s + simulator.clock.real_s(fault.number(LOCKED_S))
    return fault


def _over_open_max(simulator: Simulator, request: CreateRequest) -> HttpAnswer | None:
    model = simulator.profile.model(request.model)
    if simulator.profile.conversations_locked and simulator.responses.is_talking(request):
        return simulator.limits.reply(_LOCKS["locked"])
    if not model.open_max or simulator.responses.open_of[request.model] < model.open_max:
        return None
    if model.open_max_answer is not None:
        return simulator.limits.reply(parse_reply(model.open_max_answer))
    return simulator.limits.refusal("429_other", request.lane)


def _count_call(simulator: Simulator, request: CreateRequest) -> tuple[JobTally | None, str]:
    """The job's tally and the seed of this call's draws: job, attempt, how often; else the number of the call."""
    job, attempt = request.target.job, request.target.attempt
    if job is None:
        return None, f"#{simulator.ledgers.calls.last}"
    tally = simulator.tallies.of(job)
    tally.calls += 1
    times = tally.calls_of[attempt] = tally.calls_of.get(attempt, 0) + 1
    return tally, f"{job}/{attempt}/{times}"


def _accept(
    simulator: Simulator, request: CreateRequest, tally: JobTally | None, key: str, fault: ArmedFault | None
) -> Stored:
    target, directives = request.target, request.directives
    run_fault = simulator.faults.one("run", target, key, directives, 1)
    hidden = simulator.faults.named("poll_404_at_first", target, key, directives)
    for struck in (run_fault, hidden):
        if struck is not None:
            simulator.struck[struck.name] += 1
    wave_factor, is_continued = simulator.platform.wave_factor, simulator.continuations.is_continued(request)
    plan = make_plan(
        request, simulator.profile, simulator.chance, key, run_fault, wave_factor, is_continued=is_continued
    )
    if (held := _background_shown(simulator, request, fault)) is not None:
        plan = replace(plan, shown=replace(plan.shown, background=held))
    stored = simulator.responses.accept(request, plan, key, hidden.number(HIDDEN_S) if hidden else 0.0)
    stored.cached_tokens, stored.cache_write_tokens = simulator.prompt_cache.take(request)
    of_job, repeat = _count_accepted(tally, target.attempt)
    simulator.repeats += bool(repeat)
    simulator.ledgers.creates.write(
        **stored.names(),
        tenant=request.owner["tenant"],
        model=request.model,
        metadata=request.metadata,
        background=request.background,
        retry_count=request.retry_count,
        idempotency_key=request.idempotency_key,
        window=request.window,
        continued=is_continued,
        fault=fault.name if fault else None,
        run_fault=run_fault.name if run_fault else None,
        replied=fault is None or not fault.what.startswith("accept_") or fault.what in ("accept_slow", "accept_202"),
        of_job=of_job,
        repeat=repeat,
    )
    return stored


def _background_shown(
    simulator: Simulator, request: CreateRequest, fault: ArmedFault | None
) -> Literal["false", "absent"] | None:
    """What a server that ignores `background` shows of it; None = it honours it."""
    if not request.background:
        return None
    if fault is not None and fault.what == "held":
        return "absent" if fault.arg == "absent" else "false"
    return _IGNORED[simulator.profile.background]


def _count_accepted(tally: JobTally | None, attempt: str | None) -> tuple[int, int]:
    if tally is None:
        return 0, 0
    before = tally.accepted, tally.accepted_of.get(attempt, 0)
    tally.accepted += 1
    tally.accepted_of[attempt] = before[1] + 1
    return before


async def _reply(simulator: Simulator, call: ApiCall, stored: Stored, fault: ArmedFault | None) -> HttpAnswer:
    """The object as the client shall see it, after whatever must happen before the reply."""
    request = stored.request
    if fault is not None and (ending := _instant_end(fault)) is not None:
        simulator.responses.end_now(stored, ending)
        call.stream_fault = fault if fault.what == "first_event_failed" else None
    if request.stream:
        call.streams_from = 0
        return answer_of(stored)
    if not stored.is_open:
        return answer_of(stored)
    if not request.background:
        await _await_end(simulator, call, stored, is_cancelled=True)
        return answer_of(stored)
    if stored.plan.shown.background != "as_asked":
        await _await_end(simulator, call, stored, is_cancelled=False)
        return answer_of(stored)
    answer = answer_of(stored)
    early = simulator.faults.named("webhook_early", stored.target, stored.key, request.directives)
    if early is not None:
        simulator.struck["webhook_early"] += 1
        tried = asyncio.Event()
        simulator.responses.end_now(stored, stored.plan.ending, tried)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(tried.wait(), simulator.profile.early_hold_real_s)
    return answer


def _instant_end(fault: ArmedFault) -> Ending | None:
    match fault.what:
        case "terminal":
            return Ending()
        case "terminal_failed" | "first_event_failed":
            return ending_of("failed", fault.arg)
        case "terminal_incomplete":
            return ending_of("incomplete", fault.arg)
        case _:
            return None


async def _await_end(simulator: Simulator, call: ApiCall, stored: Stored, *, is_cancelled: bool) -> None:
    """A synchronous response is answered when it has ended. OpenAI cancels it if its client leaves (guide: background);
    a server that ignores `background` lets it run on.
    """
    while stored.is_open and not simulator.wire.closing.is_set():
        await stored.changed(_POLL_AROUND_S)
        if stored.is_open and (call.request.transport is None or call.request.transport.is_closing()):
            if not is_cancelled:
                return
            simulator.responses.cancel(stored)


def _with_limits(simulator: Simulator, request: CreateRequest, answer: HttpAnswer) -> HttpAnswer:
    return HttpAnswer(answer.status, answer.body, answer.content_type, simulator.limits.headers(request.lane))


def _refused(simulator: Simulator, call: ApiCall, request: CreateRequest, fault: ArmedFault) -> HttpAnswer:
    what = fault.what
    if what in _LOCKS:
        return simulator.limits.reply(_LOCKS[what])
    if what == "answer":
        return _as_told(simulator, request, parse_reply(fault.arg or "500"))
    if what.startswith("refuse_"):
        kind = what.removeprefix("refuse_")
        # After the wait there is nothing to show; elsewhere an answer that was never made is spoiled.
        plausible = failure(500) if kind == "slow" else HttpAnswer(200, _NEVER_MADE)
        return spoil(plausible, kind, fault.number(simulator.profile.slow_real_s))
    if what in ("503_overloaded", "html_429") or what.startswith("429_"):
        return simulator.limits.refusal(what, request.lane)
    return redirect(call) if what == "307" else _REFUSALS[what]


def _as_told(simulator: Simulator, request: CreateRequest, reply: Reply) -> HttpAnswer:
    """The reply; to a streamed create, an error inside a 200 is an event."""
    answer = simulator.limits.reply(reply)
    if not request.stream or reply.status >= 300:
        return answer
    return (
        error_event(reply.error())
        if reply.shape == "openai"
        else replace(answer, content_type=EVENTS, body=b"data: %b\n\n" % answer.body)
    )


_BY_A_GATEWAY: Final = frozenset({"409", "503"})
"""With the API's own error object these refuse: what has accepted does not say so."""
_ACCEPTED: Final = ("accept_", "terminal", "first_event_failed", "held")
_LOCKS: Final = {
    "locked": parse_reply("conversation_locked"),
    "queue_full": parse_reply("queue_full"),
    "conflict": parse_reply("conflict"),
}
_IGNORED: Final[dict[str, Literal["false", "absent"] | None]] = {
    "honoured": None,
    "ignored": "false",
    "ignored_and_absent": "absent",
}
_NEVER_MADE: Final = (
    b'{"id": "resp_0000000000000000000000000000000000000000", "object": "response", "status": "queued"}'
)
_REFUSALS: Final = {
    "html_403": html(403),
    "400": bad_request("Invalid value for 'reasoning.effort'.", param="reasoning.effort", code="invalid_value"),
    "401": wrong_key(),
    "403": error(403, "Project `proj_sim` does not have access to this model.", code="model_not_found"),
    "404_model": error(404, "The model does not exist or you do not have access to it.", code="model_not_found"),
    "413": error(413, "Your request body is too large.", code="request_too_large"),
    "422": error(422, "Unprocessable request."),
}
