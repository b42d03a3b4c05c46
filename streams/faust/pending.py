"""Records of one partition that wait for the next batch. Pure."""

from collections import deque
from collections.abc import Iterable

from backstop.runtime.records import Record, size_bytes

RECORDS_MAX = 2_000
"""From here on the partition is not fetched. One chunk may exceed it."""
BYTES_MAX = 4 * 1024 * 1024
"""As `RECORDS_MAX`: 2,000 records of 1 MB each would be 2 GB."""
BATCH_BYTES_MAX = 4 * 1024 * 1024
"""Of one batch; its last record may exceed it."""


class PendingRecords:
    """A queue in offset order."""

    def __init__(self) -> None:
        self._records: deque[Record] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._records)

    @property
    def first_offset(self) -> int:
        return self._records[0].offset

    @property
    def full(self) -> bool:
        return len(self._records) >= RECORDS_MAX or self._bytes >= BYTES_MAX

    def add(self, records: Iterable[Record]) -> None:
        for record in records:
            self._records.append(record)
            self._bytes += size_bytes(record)

    def next_batch(self, records_max: int) -> list[Record]:
        """Remove and return the first records, at least one."""
        batch: list[Record] = []
        batch_bytes = 0
        while self._records and len(batch) < records_max and batch_bytes < BATCH_BYTES_MAX:
            batch.append(self._records.popleft())
            batch_bytes += size_bytes(batch[-1])
        self._bytes -= batch_bytes
        return batch
