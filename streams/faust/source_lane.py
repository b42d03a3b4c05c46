"""One partition of a source topic, from a seek to the next revocation. Pure.

Its records come by fetches. A record that this process has written need not wait for one: the broker's acknowledgement
tells its offset, and all in-sync replicas have it, as with a record that was fetched. So it is handed over, if its
offset is the next one that is wanted: the order of the log decides, and each record is taken once. Where another
process has written in between, nothing is handed over until a fetch has passed that place. While a batch is out, the
record would wait for it anyway, and a fetch brings it together with others: so load makes batches, not hand-overs.

The fetch brings again what was handed over. It is compared: a log that has another record there was truncated.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from backstop.runtime.records import Record
from schemas.unreadable import Unreadable
from streams.faust.pending import PendingRecords
from streams.tables.lost_tail import LogTruncatedError


@dataclass(slots=True)
class SourceLane:
    """Offsets of a partition, each up to which something holds, and the records between them."""

    topic: str
    partition: int
    epoch: int
    begin: int
    """The offset of the seek."""
    committed: int | None
    done: int | None = None
    """The end of the last acknowledged batch."""
    out: Any = None
    """The event that is out; None without one."""
    out_end: int = 0
    out_since_s: float = 0.0
    pending: PendingRecords = field(default_factory=PendingRecords)
    """Records for the next batches: up to `expected`."""
    expected: int = field(init=False)
    """The next offset to take, by a fetch or from memory."""
    fetched: int = field(init=False)
    """The offset at which the next chunk must begin."""
    _handed: PendingRecords = field(default_factory=PendingRecords)
    """The records between `fetched` and `expected`, which were handed over."""

    def __post_init__(self) -> None:
        self.expected = self.fetched = self.begin

    @property
    def handled(self) -> int:
        """The first offset that is not acknowledged yet."""
        return self.begin if self.done is None else self.done

    def hand_over(self, record: Record) -> bool:
        """A record of this process is acknowledged. Whether it is taken; else a fetch brings it."""
        if record.offset != self.expected or self.out is not None or self.pending or self._handed.full:
            return False
        self.expected += 1
        self._handed.add((record,))
        self.pending.add((record,))
        return True

    def take(self, records: Iterable[Record], end: int) -> None:
        """All records from `fetched` to `end`, by a fetch.

        :raises LogTruncatedError: the log has other records than those that were handed over.
        """
        fresh: list[Record] = []
        for record in records:
            if record.offset >= self.expected:
                fresh.append(record)
            elif not _same(record, self._handed.next_batch(1)[0]):
                raise LogTruncatedError(self.topic, self.partition, record.offset)
        if self._handed and self._handed.first_offset < end:
            raise LogTruncatedError(self.topic, self.partition, self._handed.first_offset)
        self.pending.add(fresh)
        self.fetched, self.expected = end, max(self.expected, end)
        if not self.pending and self.out is None:
            self.done = self.expected  # Only markers are left, or what was handed over, and that is acknowledged.

    def begin_again(self, epoch: int, position: int) -> None:
        """The partition was sought: the next chunk begins at `position`, or there is nothing before it any more."""
        self.epoch, self.fetched = epoch, position
        self.expected = max(self.expected, position)
        while self._handed and self._handed.first_offset < position:
            self._handed.next_batch(1)


def _same(fetched: Record, handed: Record) -> bool:
    """A record that can't be read is damaged, not another one."""
    if fetched.offset != handed.offset:
        return False
    return isinstance(fetched.value, Unreadable) or (fetched.key, fetched.value) == (handed.key, handed.value)
