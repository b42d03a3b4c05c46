"""Server-sent events of a response made with `stream: true`, from the beginning or after a sequence number.

The sequence of events is a function of what has happened, so that a resumed stream continues the same one.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import orjson
from aiohttp import web

from simulator.answers import Answer, bad_request
from simulator.calls import Call
from simulator.core import Simulator
from simulator.objects import message, output_text, render
from simulator.records import Stored

STREAM_S_MAX: Final = 300.0  # seen: "can no longer be streamed because it is more than 5 minutes old"
DELTA_CHARS: Final = 200
_POLL_S: Final = 0.25


def refusal_to_stream(simulator: Simulator, stored: Stored) -> Answer | None:
    """The 400 for a response that was not made to be streamed, or is too old to be."""
    if not stored.request.stream:
        return bad_request("This response cannot be streamed because it was not created with stream=true.")
    age_s = (simulator.clock.wall_ms() / 1000 - stored.created_at_s) * simulator.clock.scale
    if age_s > STREAM_S_MAX and not stored.is_open:
        return bad_request("This response can no longer be streamed because it is more than 5 minutes old.")
    return None


async def stream(simulator: Simulator, call: Call) -> web.StreamResponse:
    """Send the events from `call.streams_from` on, as they happen, until the response has ended."""
    stored = call.stored
    assert stored is not None
    assert call.streams_from is not None
    headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
    response = web.StreamResponse(headers=headers)
    sent = call.streams_from
    with contextlib.suppress(ConnectionError):
        await response.prepare(call.request)
        while not simulator.wire.closing.is_set():
            is_open = stored.is_open
            ready = _events(stored)
            for number in range(sent, len(ready)):
                await response.write(_frame(ready[number], number))
            sent = max(sent, len(ready))
            if not is_open or call.request.transport is None:
                break
            await stored.changed(_POLL_S)
    return response


def _frame(event: dict[str, Any], number: int) -> bytes:
    data = orjson.dumps(event | {"sequence_number": number})
    return b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), data)


def _events(stored: Stored) -> list[dict[str, Any]]:
    """All events so far, in order."""
    events = [_of("created", stored, "queued"), _of("queued", stored, "queued")]
    if stored.was_running:
        events.append(_of("in_progress", stored, "in_progress"))
    if stored.is_open:
        return events
    if stored.status == "completed" and stored.ending is not None and not stored.ending.empty:
        events += _output_events(stored)
    # A cancelled response has no event of its own: the stream just ends.
    if stored.status != "cancelled":
        events.append(_of(stored.status, stored, None))
    return events


def _of(kind: str, stored: Stored, status: str | None) -> dict[str, Any]:
    return {"type": f"response.{kind}", "response": render(stored, status=status)}


def _output_events(stored: Stored) -> list[dict[str, Any]]:
    text = output_text(stored.request)
    place = {"item_id": stored.message_id, "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    item = message(stored, "completed")
    deltas = [text[start : start + DELTA_CHARS] for start in range(0, len(text), DELTA_CHARS)]
    return [
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": item | {"status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **place, "part": part | {"text": ""}},
        *({"type": "response.output_text.delta", **place, "delta": delta, "logprobs": []} for delta in deltas),
        {"type": "response.output_text.done", **place, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
    ]
