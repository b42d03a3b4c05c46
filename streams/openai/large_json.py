"""Large JSON of a server, read in a process of its own: what the worker needs of it, and its canonical text. Pure.

A parser and a writer hold the interpreter for the whole call, in a thread, too: 64 MiB of text or 2,000,000 values
would hold up the worker for a second. So the worker gets a *head*, the same object without most of its output, and the
canonical JSON as bytes, which go to the blob store unchanged. This module imports little, as each such process pays for
its imports.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from schemas.shape import ShapeLimits, beyond
from streams.openai.foreign_json import NOT_JSON, parse, unwrapped

BYTES_MAX: Final = 2 << 20
"""The worst text of this size (four-byte characters) takes some 30 ms."""

VALUES_MAX: Final = 50_000
"""Empty lists take 0.6 µs each, and a sweep of the garbage collector."""

_SMALL: Final = ShapeLimits(values_max=VALUES_MAX, depth_max=1 << 30)

TEXT_CHARS_MAX: Final = 4_096
ITEMS_MAX: Final = 64
DEPTH_MAX: Final = 6
CALLS_MAX: Final = 5_000

MEMBERS: Final = frozenset((
    "background", "background_options", "code", "completed_at", "created_at", "detail", "error", "errors", "id",
    "incomplete_details", "last_error", "message", "metadata", "model", "msg", "object", "param", "response_id",
    "sequence_number", "service_tier", "status", "status_details", "title", "type", "usage",
))  # fmt: skip
"""All that the worker reads of a response, an error or an event, beside its `response` and its `output`."""

CALLS: Final = frozenset(("web_search_call", "file_search_call", "code_interpreter_call"))
"""Items of the output that the worker counts."""


def is_large(data: bytes) -> bool:
    """Whether parsing it would hold up the worker."""
    return len(data) > BYTES_MAX or beyond(data, _SMALL) is not None


def read(data: bytes, limits: ShapeLimits) -> tuple[bytes | None, bytes]:
    """The head as JSON (None: it exceeds `limits`; empty: not JSON), and the canonical JSON of the response in it.

    The second is empty where the head is complete. A response without output has an empty one.

    :raises TypeError: nested deeper than the writer of JSON can go.
    """
    if beyond(data, limits) is not None:
        return None, b""
    value = parse(data)
    del data  # Its memory is needed for what follows.
    if value is NOT_JSON:
        return b"", b""
    event = isinstance(value, dict) and isinstance(value.get("response"), dict)
    value = value if event else unwrapped(value)
    response = value["response"] if event else value
    text = _canonical(response)
    if not is_large(text):
        return _canonical(value), b""
    if isinstance(response, dict) and response.get("output") is None:
        text = _canonical({**response, "output": []})
    return orjson.dumps(head(value)), text


def head(value: Any) -> Any:
    """The object without what only its reader wants."""
    if not isinstance(value, Mapping):
        return _shortened(value, DEPTH_MAX)
    members = {name: _shortened(item, DEPTH_MAX) for name, item in value.items() if name in MEMBERS}
    if isinstance(value.get("response"), dict):
        members["response"] = head(value["response"])
    if "output" in value:
        members["output"] = _calls(value["output"])
    return members


def _calls(output: Any) -> Any:
    if not isinstance(output, list):
        return _shortened(output, DEPTH_MAX)
    calls = [item for item in output if isinstance(item, dict) and item.get("type") in CALLS]
    return [{name: _shortened(call.get(name), 0) for name in ("type", "container_id")} for call in calls[:CALLS_MAX]]


def _shortened(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return value[:TEXT_CHARS_MAX]
    if isinstance(value, list):
        return [_shortened(item, depth - 1) for item in value[:ITEMS_MAX]] if depth else []
    if isinstance(value, dict):
        first = [*value.items()][:ITEMS_MAX]
        return {name[:TEXT_CHARS_MAX]: _shortened(item, depth - 1) for name, item in first} if depth else {}
    return value


def _canonical(value: Any) -> bytes:
    """As `schemas.codec.canonical`, which would import pydantic into each process."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
