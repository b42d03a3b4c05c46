"""JSON that a server sent: whole, or only its beginning. Pure; total over any bytes."""

import json
import math
from typing import Any, Final

import orjson


class NotJson:
    """Stands for the body of an answer that is not JSON."""

    def __repr__(self) -> str:
        return "NOT_JSON"


NOT_JSON: Final = NotJson()

_DECODER: Final = json.JSONDecoder()
_SPACE: Final = " \t\r\n"


def parse(content: bytes) -> Any:
    """Parse JSON; `NOT_JSON` if that fails. The result can be serialized again, unless it is nested too deep for
    orjson.

    orjson refuses some JSON that servers send: half a surrogate pair (a text cut inside an emoji), NaN. Such an answer
    is parsed by the standard library, and values that can't be serialized are replaced.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass
    try:
        return _writable(json.loads(content.decode("utf-8", "replace")))
    except (ValueError, RecursionError):
        return NOT_JSON


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
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at
