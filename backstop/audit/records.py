"""A Kafka record as the audit keeps it. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Placed:
    """A record with its place. `topic` is the logical name (`jobs`), so that nothing here depends on a prefix."""

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


Partition = tuple[str, int]
"""Logical topic and partition."""


def changelog(fold_topic: str) -> str:
    """The logical name of a table's changelog. Faust builds it from
    the app (`worker`) and the table (the log's name).
    """
    return f"worker-{fold_topic}-changelog"
