"""A raw record as a fact, or as a dead letter."""

import base64
from typing import Any

from pydantic import TypeAdapter

from readmodel.batch import Record
from readmodel.consumer import Partition, RawRecord
from readmodel.rows import Position
from schemas.codec import PoisonError, decode
from schemas.dead_letters import DeadLetter, DeadReason, Origin
from schemas.jobs import JOB_FACT
from schemas.responses import RESPONSE_FACT
from schemas.results import RESULT

_ADAPTERS: dict[str, TypeAdapter[Any]] = {"jobs": JOB_FACT, "responses": RESPONSE_FACT, "results": RESULT}


def parse(partition: Partition, raw: RawRecord) -> Record | None:
    """None: a tombstone on `results`, which is an erasure and no result.

    :raises PoisonError: nothing that can be taken.
    """
    topic, number = partition
    if raw.value is None and topic == "results":
        return None
    fact = decode(_ADAPTERS[topic], raw.value)
    if raw.key != fact.key.encode():
        raise PoisonError("wrong_key", "the record's key is not the one its value names")
    assert raw.value is not None  # decode refuses None
    return Record(Position(topic, number, raw.offset), fact, raw.value)


def dead_letter(partition: Partition, raw: RawRecord, reason: DeadReason, detail: str, prefix: str) -> DeadLetter:
    """The same record gives the same letter, however often it is met."""
    topic, number = partition
    return DeadLetter(
        id=f"readmodel/{topic}/{number}/{raw.offset}",
        at_ms=max(0, raw.timestamp_ms),
        component="readmodel",
        reason=reason,
        detail=detail,
        origin=Origin(topic=f"{prefix}{topic}", partition=number, offset=raw.offset, timestamp_ms=raw.timestamp_ms),
        key_base64=_base64(raw.key),
        value_base64=_base64(raw.value),
        headers=tuple((name, base64.b64encode(value or b"").decode()) for name, value in raw.headers),
        record_key=raw.key.decode("utf-8", "replace")[:200] if raw.key else "",
    )


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()
