"""The workers' view of commands: a topic, shared with other members of a consumer group."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from backstop.runtime.records import Record
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
    """Records before an offset, oldest first: all that were written since `complete_since_ms`."""

    records: Sequence[Record]
    complete_since_ms: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """The partitions owned since `epoch`, each with its committed offset and note."""

    epoch: int
    places: Mapping[int, Committed] = field(default_factory=dict)


class Commands(Protocol):
    """One member of a group. Not for concurrent use, except `commit`. Retries errors that pass."""

    @property
    def epoch(self) -> int:
        """Counts assignments. Records taken in an earlier one may belong to another member now."""

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions of the last assignment."""

    async def assignment(self) -> Assignment:
        """The last assignment, with the commits of its partitions."""

    async def start(self, stop: asyncio.Event) -> None:
        """Join the group as soon as a broker answers. Returns then, or when `stop` is set."""

    async def stop(self) -> None:
        """Leave the group."""

    async def take(self, records_max: int, wait_ms: int) -> Taken:
        """At most `records_max` new records; none if none came within `wait_ms`."""

    async def commit(self, epoch: int, next_offsets: Mapping[int, int], notes: Mapping[int, str] | None = None) -> bool:
        """Commit records taken in `epoch`. True only if the group has the commit, and no rebalance came between.

        False: another member may take, or have taken, the same records; the caller must not act on them.

        :param notes: for the next owner of each partition, see `assignment`. They may get lost.
        """

    async def read_back(self, partition: int, before_offset: int, since_ms: int, records_max: int) -> ReadBack:
        """The last `records_max` records of a partition since `since_ms`, before `before_offset`, which exists."""
