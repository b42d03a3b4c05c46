"""Commands as the workers take them: a topic, shared with other members of a group."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from backstop.runtime.kafka.records import Record
from streams.workers.offsets import Committed


@dataclass(frozen=True, slots=True)
class Taken:
    """Records by partition, in offset order, and the assignment (`epoch`) under which they were taken."""

    epoch: int
    by_partition: Mapping[int, Sequence[Record]] = field(default_factory=dict)

    @property
    def next_offsets(self) -> dict[int, int]:
        return {partition: records[-1].offset + 1 for partition, records in self.by_partition.items()}


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What came before an offset: everything written since `complete_since_ms`, oldest first."""

    records: Sequence[Record]
    complete_since_ms: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """The partitions that are ours since `epoch`, and where each begins."""

    epoch: int
    places: Mapping[int, Committed] = field(default_factory=dict)


class Commands(Protocol):
    """One member of a group. Not for concurrent use, but for `commit`. Passing trouble is waited out in here."""

    @property
    def epoch(self) -> int:
        """Counts assignments. What was taken in an earlier one may be another member's by now."""

    @property
    def partitions(self) -> frozenset[int]:
        """Those of the last assignment."""

    async def assignment(self) -> Assignment:
        """The last assignment, with what is committed of its partitions."""

    async def start(self, stop: asyncio.Event) -> None:
        """Join, as soon as a broker answers or `stop` is set."""

    async def stop(self) -> None:
        """Leave."""

    async def take(self, records_max: int, wait_ms: int) -> Taken:
        """At most `records_max` new records; none where none came within `wait_ms`."""

    async def commit(self, epoch: int, next_offsets: Mapping[int, int], notes: Mapping[int, str] | None = None) -> bool:
        """Commit what was taken in `epoch`. True only if the group has it, and the partitions were ours all the time.

        `notes` are for whoever is assigned a partition next, see `assignment`; they may get lost.

        False: somebody else may have taken, or will take, the same records; ours must not be acted on.
        """

    async def read_back(self, partition: int, before_offset: int, since_ms: int, records_max: int) -> ReadBack:
        """The records of a partition from `since_ms` on, up to `before_offset` (which exists); the last `records_max` of them."""
