"""The calls on one response: retrieve, cancel, delete, input items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from backstop.simulator.answers import HttpAnswer, bad_request, error, html, not_found, ok, wrong_key
from backstop.simulator.around import answer_of
from backstop.simulator.calls import ApiCall, redirect, strike
from backstop.simulator.catalogue import KINDS, ArmedFault
from backstop.simulator.core import Simulator
from backstop.simulator.ids import response_id
from backstop.simulator.objects import input_items
from backstop.simulator.records import Stored
from backstop.simulator.replies import parse_reply
from backstop.simulator.streaming import refusal_to_stream
from backstop.simulator.wire import spoil

COMPLETES_AFTER_CANCEL_S: Final = 5.0
PASSING_404_S: Final = 5.0
ITEMS_LIMIT_MAX: Final = 100


async def poll(simulator: Simulator, call: ApiCall) -> HttpAnswer:
    """`GET /v1/responses/{id}`."""
    stored = _find(simulator, call)
    if stored is None:
        return not_found(call.request.match_info["response_id"])
    if simulator.profile.polls_counted:
        refusal = simulator.limits.charge(stored.request.lane, None)
        if refusal is not None:
            return refusal
    if call.request.query.get("stream") == "true":
        return _stream(simulator, call, stored)
    stored.polls += 1
    directives = stored.request.directives
    key = f"{stored.key}/poll/{stored.polls}"
    fault = strike(simulator, call, simulator.faults.one("poll", stored.target, key, directives, stored.polls))
    if fault is None:
        fault = strike(simulator, call, _after_shown(simulator, stored))
    answer = _seen(stored) if fault is None else _struck_poll(simulator, call, stored, fault)
    # A state counts as shown when the answer could be read.
    stored.shown_running = stored.shown_running or (fault is None and stored.status == "in_progress")
    stored.shown_ended = stored.shown_ended or (fault is None and not stored.is_open)
    poll_after_ms = simulator.profile.poll_after_ms
    if poll_after_ms is None or answer.sabotage is not None:
        return answer
    headers = {**answer.headers, "openai-poll-after-ms": str(poll_after_ms)}
    return HttpAnswer(answer.status, answer.body, answer.content_type, headers, None, answer.wait_real_s)


def _after_shown(simulator: Simulator, stored: Stored) -> ArmedFault | None:
    """A fault that strikes once, at the first poll after one that showed the response as running, or as ended."""
    if stored.shown_ended and not stored.regressed:
        stored.regressed = True
        return simulator.faults.named("poll_regress", stored.target, stored.key, stored.request.directives)
    if stored.shown_running and not stored.vanished:
        stored.vanished = True
        return simulator.faults.named("poll_404_passing", stored.target, stored.key, stored.request.directives)
    return None


def _seen(stored: Stored) -> HttpAnswer:
    """The object in the answer of a poll or a cancel. A gateway may show another id than the create's."""
    return answer_of(stored, response_id=stored.other_id if stored.plan.shown.other_id else None)


def _struck_poll(simulator: Simulator, call: ApiCall, stored: Stored, fault: ArmedFault) -> HttpAnswer:
    what = fault.what
    if what in KINDS:
        return spoil(answer_of(stored), what, fault.number(simulator.profile.slow_real_s))
    if what in ("429", "html_429"):
        refusal = "429_requests" if what == "429" else what
        return simulator.limits.refusal(refusal, stored.request.lane)
    if what == "307":
        return redirect(call)
    if what == "answer":
        return simulator.limits.reply(parse_reply(fault.arg or "500"))
    if what == "404_passing":
        hidden_s = simulator.clock.real_s(fault.number(PASSING_404_S))
        stored.hidden_until_s, stored.hidden_by = simulator.clock.now_s() + hidden_s, fault.name
        return not_found(stored.id)
    return _POLLS[what](stored, fault)


_POLLS: Final[dict[str, Callable[[Stored, ArmedFault], HttpAnswer]]] = {
    "404": lambda stored, _: not_found(stored.id),
    "401": lambda _, __: wrong_key(),
    "html_403": lambda _, __: html(403),
    "regress": lambda stored, _: answer_of(stored, status="in_progress"),
    "unknown_status": lambda stored, fault: answer_of(stored, status=fault.arg or "paused"),
    "another_id": lambda stored, _: answer_of(stored, response_id=response_id()),
    "truncated": lambda stored, _: spoil(answer_of(stored), "broken_json", 0.0),
}


def _stream(simulator: Simulator, call: ApiCall, stored: Stored) -> HttpAnswer:
    call.op = "stream"
    after = call.request.query.get("starting_after", "-1")
    if not after.removeprefix("-").isdecimal():
        return bad_request("Invalid value for 'starting_after': expected an integer.", param="starting_after")
    refusal = refusal_to_stream(simulator, stored)
    if refusal is not None:
        return refusal
    stored.streams += 1
    key = f"{stored.key}/stream/{stored.streams}"
    fault = simulator.faults.one("stream", stored.target, key, stored.request.directives, stored.streams)
    strike(simulator, call, fault)
    if fault is not None and (refused := _struck_stream(simulator, stored, fault)) is not None:
        return refused
    call.streams_from, call.stream_fault = int(after) + 1, fault
    return answer_of(stored)


def _struck_stream(simulator: Simulator, stored: Stored, fault: ArmedFault) -> HttpAnswer | None:
    """The answer in place of a stream, if the fault is one."""
    match fault.what:
        case "400":
            return bad_request("This response can no longer be streamed because it is more than 5 minutes old.")
        case "404":
            return not_found(stored.id)
        case "429":
            return simulator.limits.refusal("429_requests", stored.request.lane)
        case "500" | "html_200" as kind:
            return spoil(answer_of(stored), kind, 0.0)
        case _:
            return None


async def cancel(simulator: Simulator, call: ApiCall) -> HttpAnswer:
    """`POST /v1/responses/{id}/cancel`."""
    bare = simulator.profile.error_404 == "bare"
    stored = _find(simulator, call)
    if stored is None:
        return not_found(call.request.match_info["response_id"], bare=bare)
    if not stored.request.background:
        return bad_request("Cannot cancel a synchronous response.")
    stored.cancels += 1
    key = f"{stored.key}/cancel/{stored.cancels}"
    fault = simulator.faults.one("cancel", stored.target, key, stored.request.directives, stored.cancels)
    strike(simulator, call, fault)
    return _cancelled(simulator, stored) if fault is None else _struck_cancel(simulator, stored, fault)


def _struck_cancel(simulator: Simulator, stored: Stored, fault: ArmedFault) -> HttpAnswer:
    side, _, kind = fault.what.partition("_")
    if kind in KINDS:
        if side == "accept" and stored.is_open:
            simulator.responses.cancel(stored)
        return spoil(answer_of(stored), kind, fault.number(simulator.profile.slow_real_s))
    if fault.what == "429":
        return simulator.limits.refusal("429_requests", stored.request.lane)
    if fault.what == "answer":
        return simulator.limits.reply(parse_reply(fault.arg or "500"))
    if fault.what == "runs_on":
        return _seen(stored)
    if fault.what == "then_completed":
        was_open = stored.is_open
        answer = _cancelled(simulator, stored)
        if was_open:
            simulator.responses.complete_later(stored, fault.number(COMPLETES_AFTER_CANCEL_S))
        return answer
    return _not_cancelled(fault.what, stored, bare=simulator.profile.error_404 == "bare")


def _cancelled(simulator: Simulator, stored: Stored) -> HttpAnswer:
    if stored.is_open:
        simulator.responses.cancel(stored)
    elif stored.status != "cancelled" and simulator.profile.cancel_of_ended != "final":
        return _not_cancelled(simulator.profile.cancel_of_ended, stored, bare=simulator.profile.error_404 == "bare")
    return _seen(stored)


def _not_cancelled(status: str, stored: Stored, *, bare: bool) -> HttpAnswer:
    if status == "404":
        return not_found(stored.id, bare=bare)
    return error(int(status), f"Cannot cancel a response with status '{stored.status}'.")


async def delete(simulator: Simulator, call: ApiCall) -> HttpAnswer:
    """`DELETE /v1/responses/{id}`."""
    stored = _find(simulator, call)
    if stored is None:
        bare = simulator.profile.error_404 == "bare"
        return not_found(call.request.match_info["response_id"], bare=bare)
    simulator.responses.delete(stored)
    return ok({"id": stored.id, "object": "response", "deleted": True})


async def items(simulator: Simulator, call: ApiCall) -> HttpAnswer:
    """`GET /v1/responses/{id}/input_items`."""
    stored = _find(simulator, call)
    if stored is None:
        return not_found(call.request.match_info["response_id"])
    query = call.request.query
    limit = query.get("limit", "20")
    if not limit.isdecimal() or not 1 <= int(limit) <= ITEMS_LIMIT_MAX:
        return bad_request(f"Invalid 'limit': expected 1 to {ITEMS_LIMIT_MAX}.", param="limit")
    found = input_items(stored)
    if query.get("order", "desc") == "desc":
        found.reverse()
    ids = [item["id"] for item in found]
    start = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
    page = found[start : start + int(limit)]
    return ok(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": start + len(page) < len(found),
        }
    )


def _find(simulator: Simulator, call: ApiCall) -> Stored | None:
    stored = simulator.responses.find(call.request.match_info["response_id"], call.project)
    if stored is None:
        return None
    call.stored = stored
    if simulator.clock.now_s() < stored.hidden_until_s:
        call.fault = stored.hidden_by
        return None
    return stored
