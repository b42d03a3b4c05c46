"""An index in memory of the due times of rows in owned partitions, filled from the rows when their stores are opened.

Only due times within `AHEAD_MS` are kept: rows of finished jobs remain for days and would cost some 200 bytes each. For
later due times each partition keeps one number, a lower bound of them all. When that time is near, `Scheduler` reads
the rows of the partition again, in steps.
"""

import asyncio
import heapq
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import orjson
from pydantic import ValidationError

from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.failpoints import failpoint
from backstop.runtime.process.logs import get_logger
from schemas.codec import refused
from streams import metrics
from streams.fold.batch import Fold, S
from streams.fold.rows import decode_row

log = get_logger("streams.scheduler")

AHEAD_MS = 3_600_000
"""Due times within this period are in memory. Rows are read again after half of it, at the earliest."""

COMPACT_AT = 4
"""A heap is rebuilt when it has this many times more entries than keys: each change leaves an old entry."""

_OVER = (b'"kind":"finished"', b'"kind":"ended"')


@dataclass(frozen=True, slots=True, order=True)
class Due:
    due_ms: int
    key: bytes
    partition: int


class DueIndex:
    """The next due time of each key. Not thread-safe."""

    def __init__(self, now_ms: NowMs, ahead_ms: int = AHEAD_MS) -> None:
        self._now_ms = now_ms
        self._ahead_ms = ahead_ms
        self._dues: dict[int, dict[bytes, int]] = {}
        self._heaps: dict[int, list[tuple[int, bytes]]] = {}
        self._until_ms: dict[int, int] = {}
        """Due times before it are in `_dues`, except while the rows of the partition are read again."""
        self._later_ms: dict[int, int] = {}
        """A lower bound of the due times that are not in `_dues`; absent if there are none."""
        self.sooner = asyncio.Event()
        """Set when there is work before `wake_ms`: the reader of the index sleeps until then."""
        self.wake_ms = 0

    def opened(self, partition: int) -> None:
        """Begin an empty index for `partition`."""
        self._dues[partition] = {}
        self._heaps[partition] = []
        self.extend(partition)

    def own(self, partitions: Collection[int]) -> None:
        """Forget all partitions but these, and begin an empty index for those that are new."""
        for gone in self._dues.keys() - set(partitions):
            for by_partition in (self._dues, self._heaps, self._until_ms, self._later_ms):
                by_partition.pop(gone, None)
        for partition in set(partitions) - self._dues.keys():
            self.opened(partition)
        self.sooner.set()

    def put(self, partition: int, key: bytes, due_ms: int | None) -> None:
        """Set the next due time of `key`; None removes it. Ignored for a partition without an index (revoked)."""
        dues = self._dues.get(partition)
        if dues is None:
            return
        if due_ms is not None and due_ms < self.wake_ms:
            self.sooner.set()
        if due_ms is None or due_ms >= self._until_ms[partition]:
            dues.pop(key, None)
            if due_ms is not None:
                self._later_ms[partition] = min(self._later_ms.get(partition, due_ms), due_ms)
            return
        if dues.get(key) == due_ms:
            return
        dues[key] = due_ms
        heap = self._heaps[partition]
        heapq.heappush(heap, (due_ms, key))
        if len(heap) > COMPACT_AT * len(dues) + 64:
            self._compact(partition)

    def coming(self, partitions: Iterable[int]) -> int | None:
        """A partition with due times that are near but not in memory, or None. `extend` it, then `put` all its rows."""
        soon_ms = self._now_ms() + self._ahead_ms // 2
        return next((each for each in partitions if self._later_ms.get(each, soon_ms + 1) <= soon_ms), None)

    def extend(self, partition: int) -> None:
        """Keep due times up to now + `AHEAD_MS` in memory; forget the lower bound, which `put` sets again."""
        self._until_ms[partition] = self._now_ms() + self._ahead_ms
        self._later_ms.pop(partition, None)

    def due(self, now_ms: int, limit: int, owned: Collection[int]) -> list[Due]:
        """Up to `limit` due keys of owned partitions, in order of time within a partition.

        A key stays due until it is `taken` or put at a later time.
        """
        found: list[Due] = []
        for partition, heap in self._heaps.items():
            if partition not in owned:  # In recovery, or revoked by the rebalance under way.
                continue
            dues = self._dues[partition]
            kept: list[tuple[int, bytes]] = []
            while heap and heap[0][0] <= now_ms and len(found) < limit:
                due_ms, key = heapq.heappop(heap)
                if dues.get(key) == due_ms and (not kept or kept[-1] != (due_ms, key)):
                    found.append(Due(due_ms, key, partition))
                    kept.append((due_ms, key))
            for entry in kept:
                heapq.heappush(heap, entry)
        return found

    def knows(self, due: Due) -> bool:
        """Whether `due` is in memory, or will be read again in time. For checks."""
        later_ms = self._later_ms.get(due.partition)
        in_memory = self._dues.get(due.partition, {}).get(due.key) == due.due_ms
        return in_memory or (later_ms is not None and later_ms <= due.due_ms)

    def taken(self, due: Due) -> None:
        """Remove `due`: its timer is about to be made. What is put from now on stays."""
        dues = self._dues.get(due.partition)
        if dues is not None and dues.get(due.key) == due.due_ms:
            del dues[due.key]

    def again(self, due: Due) -> None:
        """Put `due` back, unless its key was put meanwhile: the log did not take its timer."""
        dues = self._dues.get(due.partition)
        if dues is not None and due.key not in dues:
            self.put(due.partition, due.key, due.due_ms)

    def next_due_ms(self) -> int | None:
        """A lower bound of the time of the next work; None without any."""
        for partition, heap in self._heaps.items():
            dues = self._dues[partition]
            while heap and dues.get(heap[0][1]) != heap[0][0]:
                heapq.heappop(heap)
        nexts = [heap[0][0] for heap in self._heaps.values() if heap]
        nexts += [later_ms - self._ahead_ms // 2 for later_ms in self._later_ms.values()]
        return min(nexts, default=None)

    def __len__(self) -> int:
        return sum(len(dues) for dues in self._dues.values())

    def _compact(self, partition: int) -> None:
        heap = [(due_ms, key) for key, due_ms in self._dues[partition].items()]
        heapq.heapify(heap)
        self._heaps[partition] = heap


class IndexedRows:
    """A `RowWatch` that puts the due times of rows into an index."""

    def __init__(self, fold: Fold[S], index: DueIndex) -> None:
        self._fold = fold
        self._index = index

    def opened(self, partition: int) -> None:
        failpoint("scheduler.index.rebuilding")
        self._index.opened(partition)

    def saw(self, partition: int, rows: Collection[tuple[bytes, bytes | None]]) -> None:
        for key, row in rows:
            self._index.put(partition, key, None if row is None else self._due_ms(key, row))

    def _due_ms(self, key: bytes, row: bytes) -> int | None:
        try:
            return row_due_ms(self._fold, row)
        except ValidationError as error:
            # A newer release wrote the row. Facts for its key become dead letters; the row stays for that release.
            metrics.ROWS_UNREADABLE.labels(log=self._fold.topic).inc()
            log.error(
                "row_unreadable", log=self._fold.topic, key=key.decode(errors="replace"), detail=refused(error).detail
            )
            return None


def row_due_ms(fold: Fold[S], row: bytes) -> int | None:
    """`fold.due_ms` of the row's state. Most rows have ended and wait to be forgotten: these are not decoded whole."""
    data = decode_row(row)[0]
    if any(kind in data for kind in _OVER):
        state = orjson.loads(data)
        if state["kind"] in ("finished", "ended"):
            forget_at_ms: int = state["forget_at_ms"]
            return forget_at_ms
    return fold.due_ms(fold.decode_state(data))
