"""What is due soon, for the partitions that this worker owns. In memory, filled from the rows as their stores are opened.

Only what is due within `AHEAD_MS` is kept: finished jobs are rows for days, and each would cost some 200 bytes here for nothing. Of what is due
later, a partition keeps one number, a time before which none of it is due. When that time comes near, the rows of the partition are read
once more (`Scheduler`), in steps.
"""

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
"""What is due within this time is in memory. Rows are read again after half of it, at the soonest."""

COMPACT_AT = 4
"""A heap is rebuilt when it holds this many times more entries than there are keys: each change leaves an old entry behind."""

_OVER = (b'"kind":"finished"', b'"kind":"ended"')


@dataclass(frozen=True, slots=True, order=True)
class Due:
    due_ms: int
    key: bytes
    partition: int


class DueIndex:
    """The next due time of each key. Not thread-safe; all calls in one loop."""

    def __init__(self, now_ms: NowMs, ahead_ms: int = AHEAD_MS) -> None:
        self._now_ms = now_ms
        self._ahead_ms = ahead_ms
        self._dues: dict[int, dict[bytes, int]] = {}
        self._heaps: dict[int, list[tuple[int, bytes]]] = {}
        self._until_ms: dict[int, int] = {}
        """What is due before it is in `_dues`, but for a partition whose rows are being read again."""
        self._later_ms: dict[int, int] = {}
        """Nothing that is not in `_dues` is due before it; absent where there is nothing."""

    def opened(self, partition: int) -> None:
        """Hold `partition`, and forget what was known of it."""
        self._dues[partition] = {}
        self._heaps[partition] = []
        self.extend(partition)

    def own(self, partitions: Collection[int]) -> None:
        """Hold exactly these."""
        for gone in self._dues.keys() - set(partitions):
            for held in (self._dues, self._heaps, self._until_ms, self._later_ms):
                held.pop(gone, None)
        for partition in set(partitions) - self._dues.keys():
            self.opened(partition)

    def put(self, partition: int, key: bytes, due_ms: int | None) -> None:
        """Set the next due time of `key`; None removes it. A partition that is not held (revoked meanwhile) is left alone."""
        dues = self._dues.get(partition)
        if dues is None:
            return
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
        """One of these of which something that is not in memory may be due soon: `extend` it, and `put` all its rows."""
        soon_ms = self._now_ms() + self._ahead_ms // 2
        return next((each for each in partitions if self._later_ms.get(each, soon_ms + 1) <= soon_ms), None)

    def extend(self, partition: int) -> None:
        """Keep more in memory from now on."""
        self._until_ms[partition] = self._now_ms() + self._ahead_ms
        self._later_ms.pop(partition, None)

    def due(self, now_ms: int, limit: int, owned: Collection[int]) -> list[Due]:
        """Up to `limit` keys of owned partitions whose time has come, the earliest of each partition first; kept until `taken` or put anew."""
        found: list[Due] = []
        for partition, heap in self._heaps.items():
            if partition not in owned:  # still being recovered, or gone in the rebalance that is under way
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
        """Whether it is in memory, or will be read again in time. For checks."""
        later_ms = self._later_ms.get(due.partition)
        in_memory = self._dues.get(due.partition, {}).get(due.key) == due.due_ms
        return in_memory or (later_ms is not None and later_ms <= due.due_ms)

    def taken(self, due: Due) -> None:
        """Its `TimerFired` is in the log: the fold will put the next due time."""
        dues = self._dues.get(due.partition)
        if dues is not None and dues.get(due.key) == due.due_ms:
            del dues[due.key]

    def next_due_ms(self) -> int | None:
        """When there is something to do next; may be too early, as entries move, and is never too late."""
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
    """Puts the due times of rows into an index: a `RowWatch`."""

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
            # A newer release wrote it. The facts of its key become dead letters; the row stays for a release that can read it.
            metrics.ROWS_UNREADABLE.labels(log=self._fold.topic).inc()
            log.error(
                "row_unreadable", log=self._fold.topic, key=key.decode(errors="replace"), detail=refused(error).detail
            )
            return None


def row_due_ms(fold: Fold[S], row: bytes) -> int | None:
    """As `fold.due_ms` of its state. Most rows are of what is over and waits to be forgotten: these are not decoded whole."""
    data = decode_row(row)[0]
    if any(kind in data for kind in _OVER):
        state = orjson.loads(data)
        if state["kind"] in ("finished", "ended"):
            forget_at_ms: int = state["forget_at_ms"]
            return forget_at_ms
    return fold.due_ms(fold.decode_state(data))
