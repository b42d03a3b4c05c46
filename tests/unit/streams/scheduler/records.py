"""Facts as records of one partition."""

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.base import Message
from schemas.codec import encode


@dataclass(frozen=True)
class Record:
    offset: int
    key: bytes | None
    value: bytes | None


def as_records(facts: Sequence[Message]) -> list[Record]:
    return [Record(offset, fact.key.encode(), encode(fact)) for offset, fact in enumerate(facts)]
