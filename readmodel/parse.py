"""A raw record as a fact."""

from typing import Any

from pydantic import TypeAdapter

from readmodel.batch import Record
from readmodel.consumer import Partition, RawRecord
from readmodel.rows import Position
from schemas.codec import PoisonError, decode
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
