"""Parses a raw record into a fact."""

from typing import Any

from pydantic import TypeAdapter

from backstop.readmodel.batch import ParsedRecord
from backstop.readmodel.rows import Position
from backstop.runtime.records import Partition
from backstop.runtime.records import Record as RawRecord
from schemas.codec import PoisonError, decode
from schemas.dead_letters import DEAD_LETTER_RECORD, DeadLetter
from schemas.jobs import JOB_FACT
from schemas.responses import RESPONSE_FACT
from schemas.results import RESULT

_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    "jobs": JOB_FACT, "responses": RESPONSE_FACT, "results": RESULT, "dead-letters": DEAD_LETTER_RECORD,
}  # fmt: skip


def parse(partition: Partition, raw: RawRecord) -> ParsedRecord | None:
    """None: a tombstone on `results`, which is an erasure.

    :raises PoisonError: the record can't be parsed, or its key is wrong.
    """
    topic, number = partition
    if raw.value is None and topic == "results":
        return None
    fact = decode(_ADAPTERS[topic], raw.value)
    if raw.key != fact.key.encode():
        raise PoisonError("wrong_key", "the record's key is not the one its value names")
    assert raw.value is not None  # decode refuses None
    if isinstance(fact, DeadLetter):
        fact = _with_logical_origin(fact, raw.topic.removesuffix(topic))
    return ParsedRecord(Position(topic, number, raw.offset), fact, raw.value)


def _with_logical_origin(letter: DeadLetter, prefix: str) -> DeadLetter:
    """A dead letter names its topic in full; rows use names without the prefix."""
    if letter.origin is None:
        return letter
    topic = letter.origin.topic.removeprefix(prefix)
    return letter.model_copy(update={"origin": letter.origin.model_copy(update={"topic": topic})})
