"""Builds the dead letter of a record that can't be processed."""

import base64
from collections.abc import Sequence
from typing import Protocol

from schemas.codec import PoisonError
from schemas.dead_letters import DeadLetter, Origin
from schemas.unreadable import Unreadable

VALUE_BYTES_MAX = 512_000
"""Bytes of a value that are kept: as base64 they must fit one
record. A longer value is truncated, and the detail says so.
"""


class RawRecord(Protocol):
    """A Kafka record with its origin."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp_ms(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


def dead_letter(record: RawRecord, error: PoisonError, component: str, now_ms: int) -> DeadLetter:
    """The dead letter of `record`. Its id is the record's origin, so a redelivery gives the same id."""
    detail = error.detail
    if record.value is not None and len(record.value) > VALUE_BYTES_MAX:
        detail = f"{detail} (value of {len(record.value)} bytes truncated to {VALUE_BYTES_MAX})"
    return DeadLetter(
        id=f"{record.topic}:{record.partition}:{record.offset}",
        at_ms=now_ms,
        component=component,
        reason=error.reason,
        detail=detail[:500],
        origin=Origin(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=max(0, record.timestamp_ms),
        ),
        key_base64=_base64(record.key),
        value_base64=_base64(_known(record.value)),
        headers=tuple((name[:200], _base64(value, 2_000)) for name, value in record.headers[:32]),
        record_key=_readable(record.key),
    )


def _base64(data: bytes | None, bytes_max: int = VALUE_BYTES_MAX) -> str | None:
    return None if data is None else base64.b64encode(data[:bytes_max]).decode()


def _known(value: bytes | None) -> bytes | None:
    return None if isinstance(value, Unreadable) and not value.known else value


def _readable(key: bytes | None) -> str:
    """The record's key if it is short printable text, else empty (the dead letter is then keyed by its id)."""
    try:
        text = (key or b"").decode()
    except UnicodeDecodeError:
        return ""
    return text if len(text) <= 200 and text.isprintable() else ""
