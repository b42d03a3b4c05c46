"""Server-sent events of a response made with `stream: true`, from the beginning or after a sequence number.

The sequence of events is a function of the response's history, so a resumed stream continues the same sequence. Text
arrives evenly over the run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final

import orjson
from aiohttp import web

from backstop.simulator.answers import HttpAnswer, bad_request
from backstop.simulator.calls import ApiCall
from backstop.simulator.catalogue import ArmedFault
from backstop.simulator.core import Simulator
from backstop.simulator.model import call_begins, call_deltas, call_ends
from backstop.simulator.objects import INCOMPLETE_CHARS, message, output_text, render
from backstop.simulator.records import Stored

EVENTS: Final = "text/event-stream; charset=utf-8"
STREAM_S_MAX: Final = 300.0  # seen: "can no longer be streamed because it is more than 5 minutes old"
DELTA_CHARS_MAX: Final = 200
DELTAS_MIN: Final = 8
EVENTS_BEFORE_FAULT: Final = 2
_POLL_S_MIN: Final = 0.02
_POLL_S_MAX: Final = 0.25


def refusal_to_stream(simulator: Simulator, stored: Stored) -> HttpAnswer | None:
    """The 400 for a response that was not created with `stream: true`, or is too old to be streamed."""
    if not stored.request.stream:
        return bad_request("This response cannot be streamed because it was not created with stream=true.")
    age_s = (simulator.clock.wall_ms() / 1000 - stored.created_at_s) * simulator.clock.scale
    if age_s > STREAM_S_MAX and not stored.is_open:
        return bad_request("This response can no longer be streamed because it is more than 5 minutes old.")
    return None


async def stream(simulator: Simulator, call: ApiCall) -> web.StreamResponse:
    """Send the events from `call.streams_from` on, as they happen, until the response has ended or the fault
    strikes.
    """
    stored = call.stored
    assert stored is not None
    assert call.streams_from is not None
    headers = {"content-type": EVENTS, "cache-control": "no-cache"}
    response = web.StreamResponse(headers=headers)
    sent = call.streams_from
    how = _How(call.stream_fault)
    with contextlib.suppress(ConnectionError):
        await response.prepare(call.request)
        await simulator.wire.hold(call.request, how.delay_real_s(simulator.profile.slow_real_s))
        while not simulator.wire.closing.is_set():
            is_open = stored.is_open
            ready = _events(stored, simulator)
            if how.only_last:
                ready = ready[-1:]
            for frame in how.frames(ready, sent):
                if frame is None:
                    return await _break(response, call, how)
                await response.write(frame)
            sent = max(sent, len(ready))
            if call.request.transport is None or not (is_open or how.endless):
                break
            await stored.changed(_until_next_s(stored, simulator))
    return response


def error_event(inner: dict[str, Any]) -> HttpAnswer:
    """A stream with only an error."""
    event = {"type": "error", "code": inner["code"], "message": inner["message"], "param": inner["param"]}
    return HttpAnswer(200, _frame(event, 0), EVENTS)


def _until_next_s(stored: Stored, simulator: Simulator) -> float:
    """The time of the next delta. A change of state wakes the stream earlier."""
    if not stored.is_open or not stored.was_running or stored.plan.run_s is None:
        return _POLL_S_MAX
    real_s = simulator.clock.real_s(stored.plan.run_s) / len(_deltas(stored))
    return min(max(real_s, _POLL_S_MIN), _POLL_S_MAX)


class _How:
    """The effect of a fault on the frames of one connection."""

    def __init__(self, fault: ArmedFault | None) -> None:
        self.what = fault.what if fault is not None else ""
        self._fault = fault
        self._left = int(fault.number(EVENTS_BEFORE_FAULT)) if fault is not None and self.what in _BREAKS else -1
        self.endless = self.what == "endless"
        self.only_last = self.what == "first_event_failed"

    def delay_real_s(self, default: float) -> float:
        return self._fault.number(default) if self._fault is not None and self.what == "delay" else 0.0

    def frames(self, events: list[dict[str, Any]], start: int) -> Iterator[bytes | None]:
        """The frames of the events from `start` on; None where the connection breaks."""
        numbers = list(range(start, len(events)))
        if self.what == "swapped":
            numbers = [number for pair in zip(numbers[1::2], numbers[::2], strict=False) for number in pair] + (
                numbers[-1:] if len(numbers) % 2 else []
            )
        for number in numbers:
            if self._left == 0:
                yield None
            self._left -= 1
            if self.endless and events[number]["type"] in _ENDS:
                continue
            frame = _frame(events[number], number)
            yield frame
            if self.what == "twice":
                yield frame


async def _break(response: web.StreamResponse, call: ApiCall, how: _How) -> web.StreamResponse:
    if how.what == "error":
        await response.write(_frame({"type": "error", "code": "server_error", "message": "Sorry.", "param": None}, 0))
    elif how.what == "drop" and call.request.transport is not None:
        await asyncio.sleep(0)  # send the written bytes before the connection is closed
        call.request.transport.close()
    return response


_BREAKS: Final = frozenset({"drop", "close", "error"})
_ENDS: Final = frozenset({"response.completed", "response.failed", "response.incomplete"})


def _frame(event: dict[str, Any], number: int) -> bytes:
    data = orjson.dumps(event | {"sequence_number": number})
    return b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), data)


def _events(stored: Stored, simulator: Simulator) -> list[dict[str, Any]]:
    """All events so far, in order."""
    events = [_of("created", stored, "queued"), _of("queued", stored, "queued")]
    if stored.was_running:
        events.append(_of("in_progress", stored, "in_progress"))
        events += _output_so_far(stored, simulator)
    if stored.is_open:
        return events
    if stored.status == "completed" and stored.ending is not None and not stored.ending.empty:
        if not stored.was_running:
            events += [*_output_begins(stored), *_deltas(stored)]
        events += _output_ends(stored)
    # A cancelled response has no event of its own: the stream just ends.
    if stored.status != "cancelled":
        events.append(_of(stored.status, stored, None))
    return events


def _of(kind: str, stored: Stored, status: str | None) -> dict[str, Any]:
    return {"type": f"response.{kind}", "response": render(stored, status=status)}


def _output_so_far(stored: Stored, simulator: Simulator) -> list[dict[str, Any]]:
    planned, run_s = stored.plan.ending, stored.plan.run_s
    if planned.empty or (run_s is None and stored.is_open):
        return []
    deltas = _deltas(stored)
    until_s = simulator.clock.now_s() if stored.is_open else stored.ended_at_s
    real_s = simulator.clock.real_s(run_s or 0.0)
    # A completed run has sent all its text, even if timers were late.
    share = 1.0 if stored.status == "completed" or not real_s else min(1.0, (until_s - stored.began_at_s) / real_s)
    shown = deltas[: int(share * len(deltas))]
    if planned.status == "incomplete" and stored.status != "completed":
        size = len(deltas[0]["delta"])
        shown = shown[: INCOMPLETE_CHARS // size]
    return [*_output_begins(stored), *shown]


def _place(stored: Stored) -> dict[str, Any]:
    return {"item_id": stored.message_id, "output_index": 0, "content_index": 0}


def _output_begins(stored: Stored) -> list[dict[str, Any]]:
    item = message(stored, "completed")
    if item["type"] == "function_call":
        return call_begins(item)
    return [
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": item | {"status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **_place(stored), "part": _part("")},
    ]


def _deltas(stored: Stored) -> list[dict[str, Any]]:
    item = message(stored, "completed")
    if item["type"] == "function_call":
        return call_deltas(item)
    text, place = output_text(stored.request), _place(stored)
    size = max(1, min(DELTA_CHARS_MAX, len(text) // DELTAS_MIN))
    return [
        {"type": "response.output_text.delta", **place, "delta": text[start : start + size], "logprobs": []}
        for start in range(0, len(text), size)
    ]


def _output_ends(stored: Stored) -> list[dict[str, Any]]:
    item = message(stored, "completed")
    if item["type"] == "function_call":
        return call_ends(item)
    text, place = output_text(stored.request), _place(stored)
    return [
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": _part(text)},
        {"type": "response.output_item.done", "output_index": 0, "item": message(stored, "completed")},
    ]


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
