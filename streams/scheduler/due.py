"""What is due when, for the partitions that this worker owns. In memory, rebuilt from the tables after each recovery."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

COMPACT_AT = 4
"""A heap is rebuilt when it holds this many times more entries than there are keys: each change leaves an old entry behind."""


@dataclass(frozen=True, slots=True, order=True)
class Due:
    due_ms: int
    key: bytes
    partition: int


class DueIndex:
    """The next due time of each key. Not thread-safe; all calls in one loop."""

    def __init__(self) -> None:
        self._dues: dict[int, dict[bytes, int]] = {}
        self._heaps: dict[int, list[tuple[int, bytes]]] = {}

    def rebuild(self, partition: int, dues: Iterable[tuple[bytes, int]]) -> None:
        """Own `partition`, and forget what was known of it."""
        self._dues[partition] = dict(dues)
        self._compact(partition)

    def drop(self, partition: int) -> None:
        self._dues.pop(partition, None)
        self._heaps.pop(partition, None)

    def partitions(self) -> frozenset[int]:
        return frozenset(self._dues)

    def put(self, partition: int, key: bytes, due_ms: int | None) -> None:
        """Set the next due time of `key`; None removes it. A partition that is not owned (revoked meanwhile) is left alone."""
        dues = self._dues.get(partition)
        if dues is None:
            return
        if due_ms is None:
            dues.pop(key, None)
            return
        dues[key] = due_ms
        heap = self._heaps[partition]
        heapq.heappush(heap, (due_ms, key))
        if len(heap) > COMPACT_AT * len(dues) + 64:
            self._compact(partition)

    def due(self, now_ms: int, limit: int) -> list[Due]:
        """Up to `limit` keys whose time has come, the earliest of each partition first. They stay until `taken` or put anew."""
        found: list[Due] = []
        for partition, heap in self._heaps.items():
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

    def taken(self, due: Due) -> None:
        """Its `TimerFired` is in the log: the fold will put the next due time."""
        dues = self._dues.get(due.partition)
        if dues is not None and dues.get(due.key) == due.due_ms:
            del dues[due.key]

    def next_due_ms(self) -> int | None:
        """The earliest due time; may be that of an entry which has meanwhile moved, never later than the true one."""
        return min((heap[0][0] for heap in self._heaps.values() if heap), default=None)

    def __len__(self) -> int:
        return sum(len(dues) for dues in self._dues.values())

    def _compact(self, partition: int) -> None:
        heap = [(due_ms, key) for key, due_ms in self._dues[partition].items()]
        heapq.heapify(heap)
        self._heaps[partition] = heap
