"""Bytes to message and back: the only parser of what is on our topics."""

import hashlib
import re
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from schemas.base import SCHEMA_VERSION
from schemas.dead_letters import DeadReason
from schemas.sentences import sentence
from schemas.unreadable import Unreadable

M = TypeVar("M")
DETAIL_CHARS_MAX = 500
_NAME = re.compile(r"[a-z][a-z0-9_.]{0,39}")

DEPTH_MAX = 128
"""Objects and lists within each other. What is deeper would parse here (orjson reads 1024 levels) and then could not be read
back from a table's row (pydantic's JSON parser ends at 200), nor written again (orjson writes 254): it is refused at once.
"""


class PoisonError(Exception):
    """A record that can't be taken. Nobody's retry mends it: it goes to `dead-letters` with this reason."""

    def __init__(self, reason: DeadReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: DeadReason = reason
        self.detail = detail[:DETAIL_CHARS_MAX]


def canonical(value: Any) -> bytes:
    """JSON with sorted keys: equal values are equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def encode(message: BaseModel) -> bytes:
    """The record value of a message: canonical JSON; fields that are None are left out."""
    return canonical(message.model_dump(mode="json", exclude_none=True))


def sha256_hex(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def decode(adapter: TypeAdapter[M], value: bytes | None) -> M:
    """Parse a record value, or raise `PoisonError` saying why it can't be. Total over bytes."""
    return decode_object(adapter, load_object(readable(value)))


def readable(value: bytes | None) -> bytes:
    """The value of a record that has one, or `PoisonError`: what stands for a damaged record is not parsed."""
    if value is None:
        raise PoisonError("null_value", "the record has no value")
    if isinstance(value, Unreadable):
        raise PoisonError(value.reason, value.detail)
    return value


def decode_object(adapter: TypeAdapter[M], raw: dict[str, Any]) -> M:
    """As `decode`, of a record value that is parsed already."""
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
    """Why a value is none of ours. A value that is no member of a closed set is said, where it looks like a name and like no text."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "record"
    if first["type"] == "literal_error":
        given = first["input"]
        shown = (
            f"{given!r} is not known to this release; it " if isinstance(given, str) and _NAME.fullmatch(given) else ""
        )
        return PoisonError("unknown_value", f"{where}: {shown}{sentence(first)}")
    return PoisonError(
        "unknown_type" if first["type"].startswith("union_tag") else "invalid", f"{where}: {sentence(first)}"
    )


def load_object(value: bytes) -> dict[str, Any]:
    """A JSON object from bytes, or `PoisonError`."""
    try:
        raw = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise PoisonError("not_json", f"{error.msg} at {error.pos}") from None
    if not isinstance(raw, dict):
        raise PoisonError("invalid", f"a JSON {type(raw).__name__}, where an object was expected")
    brackets = value.count(b"{") + value.count(b"[")  # Cheap, and enough for most records.
    if brackets > DEPTH_MAX and deeper_than(raw, DEPTH_MAX):
        raise PoisonError("invalid", f"nested deeper than {DEPTH_MAX} levels")
    return raw


def deeper_than(value: Any, levels: int) -> bool:
    """Whether a JSON value has more than `levels` objects and lists within each other.

    Level by level, not by recursion: the value is not to be trusted.
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
