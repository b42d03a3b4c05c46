"""JSON that a server sent: whole, with something around it, or only its beginning. Pure; total over any bytes.

Servers and the proxies before them put things around an object: a byte order mark, a prefix against script inclusion,
a line of a load balancer behind it, one object per line, or events of a stream that was not asked for.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from streams.openai.sse import EventReader, EventTooLargeError


class NotJson:
    """Stands for the body of an answer that is not JSON."""

    def __repr__(self) -> str:
        return "NOT_JSON"


NOT_JSON: Final = NotJson()

INT_DIGITS_MAX: Final = 1_000
"""Python refuses to read longer numbers: as floats they are infinite, and count as absent."""


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= INT_DIGITS_MAX else float(digits)


_DECODER: Final = json.JSONDecoder(parse_int=_whole_number)
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_PREFIX: Final = re.compile(r"\)\]\}'?,?|while ?\(1\);|for ?\(;;\);")
"""Prefixes of JSON that keep a browser from running it as a script."""
_EVENTS: Final = re.compile(rb"\s*(?:event|data|id|retry)? ?:")
_SIGNS: Final = frozenset(("id", "output", "usage", "metadata", "created_at"))
_SEVERAL: Final = ("data", "responses", "items", "results", "result", "response")
VALUES_MAX: Final = 10_000
"""Values in a row, or events, of one answer."""


def parse(content: bytes) -> Any:
    """Parse JSON; `NOT_JSON` if that fails. The result can be serialized again, unless it is nested too deep for
    orjson.

    orjson refuses some JSON that servers send: half a surrogate pair (a text cut inside an emoji), NaN. Such an answer
    is parsed by the standard library, and values that can't be serialized are replaced. Of several values in a row, or
    of events, the last one with a response counts, else the last one with an error, else the first. Events in an event
    are not read: each level would be a copy of the answer.
    """
    value = _parsed(content)
    if value is not NOT_JSON or not _EVENTS.match(content):
        return value
    try:
        events = EventReader(len(content) + 1).feed(content + b"\n\n")[:VALUES_MAX]
    except EventTooLargeError:
        return NOT_JSON
    return _telling([told for data in events if isinstance(told := _parsed(data), dict)])


def _parsed(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass
    try:
        return _writable(_telling([*_values(_decoded(content))]))
    except (ValueError, RecursionError):
        return NOT_JSON


def _decoded(content: bytes) -> str:
    return content.decode(json.detect_encoding(content), "replace")  # UTF-8, -16 or -32, with or without a mark.


def _values(text: str) -> Iterator[Any]:
    """The JSON values at the beginning of a text, one after the other. What stands behind the first is optional."""
    at = _over_space(text, 0)
    prefix = _PREFIX.match(text, at)
    at = _over_space(text, prefix.end() if prefix else at)
    value, at = _DECODER.raw_decode(text, at)
    yield value
    if not isinstance(value, dict | list):
        if text[at:].strip():
            raise ValueError("a text that begins with a number or a word is no JSON")
        return
    for _ in range(VALUES_MAX):
        try:
            value, at = _DECODER.raw_decode(text, _over_space(text, at))
        except ValueError:
            return
        yield value


def _telling(values: list[Any]) -> Any:
    """Of values in a row, the one that tells how the call ended."""
    named = [value for value in values if isinstance(value, dict)]
    for tells in (_has_response, lambda value: value.get("error") or value.get("type") == "error"):
        if told := [value for value in named if tells(value)]:
            return told[-1]
    return values[0] if values else NOT_JSON


def _has_response(value: dict[str, Any]) -> bool:
    return isinstance(value.get("response"), dict) or ("id" in value and "status" in value)


def unwrapped(body: Any) -> Any:
    """The response in an answer: the answer itself, or what an envelope holds; else the answer as it is.

    Envelopes seen in public reports: `{"response": …}`, `{"data": …}`, `{"result": …}`, a list of one, JSON in a text.
    """
    if isinstance(body, str) and body.lstrip().startswith("{"):
        inside = parse(body.encode("utf-8", "replace"))
        return inside if isinstance(inside, dict) else body
    if isinstance(body, list):
        return body[0] if len(body) == 1 and _is_response(body[0]) else body
    if not isinstance(body, dict) or (body.get("object") is not None and _is_response(body)):
        return body  # An envelope may have a status of its own (`"status": "success"`), but not this kind.
    for name in ("response", "data", "result"):
        inner = body.get(name)
        if isinstance(inner, list) and len(inner) == 1:
            inner = inner[0]
        if _is_response(inner):
            return inner
    return body if body.get("error") else error_of_event(body) or body


def several(body: Any) -> list[dict[str, Any]]:
    """The responses in an answer that holds more than one, alone or in an envelope; else none."""
    held = body if isinstance(body, list) else []
    if isinstance(body, dict) and not (body.get("object") is not None and _is_response(body)):
        held = next((body[name] for name in _SEVERAL if isinstance(body.get(name), list)), [])
    found = [item for item in held[:VALUES_MAX] if _is_response(item)]
    return found if len(held) > 1 else []


def error_of_event(event: Mapping[str, Any]) -> dict[str, Any] | None:
    """The error of an error event, in the form of an answer that is not a stream."""
    if event.get("error"):
        return {"error": event["error"]}
    if event.get("type") == "error":
        # OpenAI's form has code, message and param beside the event's type.
        return {"error": {name: value for name, value in event.items() if name not in ("type", "sequence_number")}}
    return None


def _is_response(value: Any) -> bool:
    return is_response(value) and ("status" in value or "id" in value)


def is_response(value: Any) -> bool:
    """Whether an object may be a response: by its kind, or without one by a member that errors and envelopes lack."""
    if not isinstance(value, dict) or not is_response_word(value.get("object")):
        return False
    return value.get("object") is not None or not _SIGNS.isdisjoint(value)


def is_error(body: Any) -> bool:
    """Whether an answer of any status is an error: it says so by a member that responses lack or leave empty."""
    if not isinstance(body, dict):
        return False
    says_so = body.get("object") == "error" or body.get("success") is False
    return bool(body.get("error") or body.get("errors") or (says_so and body.get("message")))


def is_response_word(word: Any) -> bool:
    """Whether an object's kind (`object`) may be that of a response. Servers leave it out, or vary it."""
    return word is None or (isinstance(word, str) and word.lower().endswith("response"))


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_writable(name): _writable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_writable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and not isinstance(value, bool) and not -(1 << 63) <= value < 1 << 64:
        return float(value) if abs(value) < 1 << 1_000 else None
    return value


def beginning(content: bytes) -> dict[str, Any]:
    """The members of an object that is cut off: those that are complete. Empty if there are none."""
    text = content.decode("utf-8", "replace")
    members: dict[str, Any] = {}
    at = _next(text, 0, "{")
    while at is not None:
        try:
            name, after = _DECODER.raw_decode(text, at)
            colon = _next(text, after, ":")
            if not isinstance(name, str) or colon is None:
                break
            value, after = _DECODER.raw_decode(text, colon)
        except (ValueError, RecursionError):
            break
        at = _next(text, after, ",")
        if at is not None:  # Without a comma a number may be cut off.
            members[name] = _writable(value)
    return members


def _next(text: str, at: int, mark: str) -> int | None:
    """Where the text goes on after `mark`, which must be next; None if it is not."""
    at = _over_space(text, at)
    return _over_space(text, at + 1) if text[at : at + 1] == mark else None


def _over_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return at if space is None else space.end()
