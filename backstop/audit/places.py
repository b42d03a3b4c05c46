"""Where the records of one job stand, so that a history need not be searched for in whole partitions. Pure.

The read model keeps a place for each fact and result that it has applied, and how far it has applied each partition. So
a history is what stands at these places, and what comes after. Commands have no places: they are written after their
job's first fact, and soon after its last one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from backstop.runtime.records import Partition, Record

NEAR_RECORDS = 200
"""Places that are no further apart are read in one go."""
COMMANDS_BEFORE_MS, COMMANDS_AFTER_MS = 60_000, 600_000
"""How far a command's time may lie outside of its job's facts: clocks apart, and a worker that was slow to fold."""
PLACED_TOPICS: frozenset[str] = frozenset({"jobs", "responses", "results"})
COMMAND_TOPICS: frozenset[str] = frozenset({"submissions", "polls"})


class PlacesDifferError(Exception):
    """A place holds another record than the read model says: it was built from other logs."""


@dataclass(frozen=True, slots=True)
class Places:
    """Of one job, as a read model knows them.

    :ivar offsets: of its facts and results, by partition, ascending.
    :ivar applied: the next offset of each partition that the read model has not applied yet.
    :ivar keys: the job's id and the responses whose facts all have a place here.
    """

    job_id: str
    offsets: Mapping[Partition, Sequence[int]]
    applied: Mapping[Partition, int]
    keys: frozenset[str]


def spans(offsets: Iterable[int]) -> list[tuple[int, int]]:
    """Ranges (end exclusive) that hold these ascending offsets, those that are near in one."""
    found: list[tuple[int, int]] = []
    for offset in offsets:
        if found and offset - found[-1][1] < NEAR_RECORDS:
            found[-1] = (found[-1][0], offset + 1)
        else:
            found.append((offset, offset + 1))
    return found


def check(partition: Partition, offsets: Sequence[int], begins: int, found: Iterable[Record]) -> None:
    """`found` are the records of the wanted keys that stand in the spans of these offsets.

    :raises PlacesDifferError: one that retention has not removed is not among them.
    """
    there = {record.offset for record in found}
    missing = [offset for offset in offsets if offset >= begins and offset not in there]
    if missing:
        topic, number = partition
        raise PlacesDifferError(f"{topic}:{number}:{missing[0]} holds no record of it")


def commands_since_ms(records: Sequence[Record]) -> int:
    return min(record.timestamp_ms for record in records) - COMMANDS_BEFORE_MS


def commands_until_ms(records: Sequence[Record]) -> int | None:
    """When the last command was written; None while the job has no result."""
    if not any(record.topic == "results" for record in records):
        return None
    return max(record.timestamp_ms for record in records) + COMMANDS_AFTER_MS
