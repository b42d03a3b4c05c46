"""Record value to message and back: the only parser of records on Backstop's topics."""

import hashlib
from functools import cache
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from schemas.base import SCHEMA_VERSION, InlineBody
from schemas.dead_letters import DeadReason
from schemas.long_texts import written
from schemas.sentences import NAME, sentence
from schemas.unreadable import Unreadable

M = TypeVar("M")
BODIES = ("request", "response")
"""The fields of messages that are bodies."""
DETAIL_CHARS_MAX = 500

DEPTH_MAX = 128
"""Limit of nested objects and lists. A deeper value would parse here (orjson reads 1024 levels), but could not be read
back from a table's row (pydantic's JSON parser stops at 200) nor written again (orjson writes 254).
"""


class PoisonError(Exception):
    """A record that can't be processed. A retry can't help, so the record goes to `dead-letters` with this reason."""

    def __init__(self, reason: DeadReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: DeadReason = reason
        self.detail = detail[:DETAIL_CHARS_MAX]


def canonical(value: Any) -> bytes:
    """JSON with sorted keys: equal values give equal bytes."""
    return written(value)


def encode(message: BaseModel) -> bytes:
    """The record value of a message: canonical JSON without the fields that are None."""
    # A body is JSON already. Left out and put back, it is not copied.
    found = ((name, getattr(message, name)) for name in _bodies_of(type(message)))
    bodies = {name: body.value for name, body in found if isinstance(body, InlineBody)}
    fields = message.model_dump(mode="json", exclude_none=True, exclude={name: {"value"} for name in bodies} or None)
    for name, value in bodies.items():
        fields[name]["value"] = value
    return canonical(fields)


@cache
def _bodies_of(kind: type[BaseModel]) -> tuple[str, ...]:
    return tuple(name for name in BODIES if name in kind.model_fields)


def sha256_hex(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def decode(adapter: TypeAdapter[M], value: bytes | None) -> M:
    """Parse a record value. Any other bytes raise `PoisonError` with the reason."""
    return decode_object(adapter, load_object(readable(value)))


def readable(value: bytes | None) -> bytes:
    """The value of a record.

    :raises PoisonError: the record has no value, or the value is a placeholder (`Unreadable`) for a damaged record.
    """
    if value is None:
        raise PoisonError("null_value", "the record has no value")
    if isinstance(value, Unreadable):
        raise PoisonError(value.reason, value.detail)
    return value


def decode_object(adapter: TypeAdapter[M], raw: dict[str, Any]) -> M:
    """As `decode`, for a record value that is already parsed JSON."""
    version = raw.get("v", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise PoisonError(
            "unknown_version", f"schema version {str(version)[:40]!r}; this release reads {SCHEMA_VERSION}"
        )
    try:
        return adapter.validate_python(raw)
    except ValidationError as error:
        raise refused(error) from None


def refused(error: ValidationError) -> PoisonError:
    """The first validation error as a `PoisonError`.

    A value outside of a closed set is quoted only if it looks like an identifier: other text may be confidential.
    """
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "record"
    if first["type"] == "literal_error":
        given = first["input"]
        shown = (
            f"{given!r} is not known to this release; it " if isinstance(given, str) and NAME.fullmatch(given) else ""
        )
        return PoisonError("unknown_value", f"{where}: {shown}{sentence(first)}")
    return PoisonError(
        "unknown_type" if first["type"].startswith("union_tag") else "invalid", f"{where}: {sentence(first)}"
    )


def load_object(value: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    :raises PoisonError: no JSON, no object, or nested deeper than `DEPTH_MAX`.
    """
    try:
        raw = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise PoisonError("not_json", f"{error.msg} at {error.pos}") from None
    if not isinstance(raw, dict):
        raise PoisonError("invalid", f"a JSON {type(raw).__name__}, where an object was expected")
    brackets = value.count(b"{") + value.count(b"[")  # An upper bound of the depth; cheap, and enough for most records.
    if brackets > DEPTH_MAX and deeper_than(raw, DEPTH_MAX):
        raise PoisonError("invalid", f"nested deeper than {DEPTH_MAX} levels")
    return raw


def deeper_than(value: Any, levels: int) -> bool:
    """Whether a JSON value has more than `levels` nested objects and lists.

    Iterative: recursion over an untrusted value could exhaust the stack.
    """
    level = [value]
    for _ in range(levels):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        if not inner:
            return False
        level = inner
    return any(isinstance(item, dict | list) for item in level)
