"""A Kafka record as Backstop's readers hand it on. Pure."""

from dataclasses import dataclass
from typing import Any

HEADER_BYTES = 100
"""What a header takes in memory, at least; on the wire it takes two bytes."""

Partition = tuple[str, int]
"""Logical topic (`jobs`) and partition number: it depends on no prefix."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record with its raw bytes. `topic` is the full name with the prefix; from a `TopicReader` the logical one."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    """As the broker stores it: the time of writing, by the writer's clock."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    @property
    def place(self) -> str:
        return f"{self.topic}:{self.partition}:{self.offset}"


def record_of(raw: Any, topic: str | None = None) -> Record:
    """From aiokafka's `ConsumerRecord`. :param topic: another name for its topic."""
    return Record(
        topic or raw.topic, raw.partition, raw.offset, raw.timestamp, raw.key, raw.value, tuple(raw.headers)
    )  # fmt: skip


def size_bytes(record: Record) -> int:
    """About what a record holds in memory."""
    size = len(record.key or b"") + len(record.value or b"")
    return size + HEADER_BYTES * len(record.headers) if record.headers else size
