"""What stands around the objects of a response, as other servers and the proxies before them send it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import orjson

from backstop.simulator.answers import JSON, HttpAnswer
from backstop.simulator.objects import render
from backstop.simulator.records import Around, Stored

EVENTS: Final = "text/event-stream"
_AROUND: Final[Mapping[Around, Callable[[bytes], bytes]]] = {
    "nothing": lambda body: body,
    "bom": lambda body: b"\xef\xbb\xbf" + body,
    "utf16": lambda body: body.decode().encode("utf-16"),
    "prefix": lambda body: b")]}',\n" + body,
    "trailing": lambda body: body + b"\n<!-- pod 7 -->\n",
    "envelope": lambda body: b'{"status":"success","data":' + body + b"}",
    "list": lambda body: b"[" + body + b"]",
    "events": lambda body: b'event: response\ndata: {"type":"response","response":' + body + b"}\n\n",
}


def answer_of(stored: Stored, *, status: str | None = None, response_id: str | None = None) -> HttpAnswer:
    """200 with the object of `stored`, as `objects.render`, and what stands around it."""
    around = stored.plan.shown.around
    body = _AROUND[around](orjson.dumps(render(stored, status=status, response_id=response_id)))
    return HttpAnswer(200, body, EVENTS if around == "events" else JSON)
