"""Hands commands from the part that writes them to the part that performs them, without a fetch. Pure.

The worker that writes a command often is the one that performs it. The broker's acknowledgement tells the record's
offset, so the record need not be fetched. What holds:

1. Only an acknowledged record is handed over: all in-sync replicas have it, as with a record that was fetched.
2. A partition's records come in the order of its log, each once. A record is handed over only if it is the next one of
   the reader, whose position then moves past it.
3. Where another process has written in between, or a record is missing for any other reason, nothing of the partition
   is handed over until a fetch has passed that place.
4. A record is of the assignment in which it landed. A new assignment forgets all, and reads the log from the commits.
   Commits and their fence are the same for records that were handed over and for those that were fetched.

A partition that lives on records of its own process is *quiet*: it need not be fetched. This ends `QUIET_MS` after its
last record, or with the first gap: so another writer's command waits for that time at most.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from backstop.runtime.records import Record

QUIET_MS = 500
WAITING_MAX = 1_000
"""Records of a partition that wait for their reader. Beyond it they are dropped, and fetched later."""


@dataclass(slots=True)
class _HandedPartition:
    records: deque[Record] = field(default_factory=deque)
    """Without a gap between them."""
    quiet_until_ms: float = 0.0


class HandOver:
    """For one member of a group. Times are of any one clock."""

    def __init__(self) -> None:
        self._partitions: dict[int, _HandedPartition] = {}

    def begin(self, partitions: Iterable[int]) -> None:
        """A new assignment."""
        self._partitions = {partition: _HandedPartition() for partition in partitions}

    def landed(self, record: Record) -> bool:
        """A record of this process was acknowledged. Whether it waits for its reader; else a fetch brings it."""
        waiting = self._partitions.get(record.partition)
        if waiting is None:
            return False
        records = waiting.records
        if records and record.offset != records[-1].offset + 1:
            if record.offset <= records[-1].offset:
                return False  # A repeat of an acknowledgement.
            waiting.quiet_until_ms = 0.0
            records.clear()
        if len(records) >= WAITING_MAX:
            waiting.quiet_until_ms = 0.0
            records.clear()
            return False
        records.append(record)
        return True

    def take(self, position: Callable[[int], int | None], records_max: int, now_ms: float) -> dict[int, list[Record]]:
        """The records that come next, at most `records_max`. The caller must move its positions past them. Where there
        is not room for all, partitions take turns.

        :param position: the offset of the next record that the reader wants of a partition; None: it does not know.
        """
        found: dict[int, list[Record]] = {}
        for partition, waiting in list(self._partitions.items()):
            if records_max <= 0:
                break
            records = waiting.records
            at = position(partition) if records else None
            if at is None:
                continue
            while records and records[0].offset < at:
                records.popleft()  # A fetch was faster.
            if not records:
                continue
            if records[0].offset != at:
                waiting.quiet_until_ms = 0.0
                records.clear()
                continue
            taken = [records.popleft() for _ in range(min(records_max, len(records)))]
            records_max -= len(taken)
            waiting.quiet_until_ms = now_ms + QUIET_MS
            found[partition] = taken
            self._partitions[partition] = self._partitions.pop(partition)
        return found

    def quiet(self, now_ms: float) -> Mapping[int, float]:
        """The partitions that need no fetch now, and for how many milliseconds."""
        return {
            partition: waiting.quiet_until_ms - now_ms
            for partition, waiting in self._partitions.items()
            if waiting.quiet_until_ms > now_ms
        }
