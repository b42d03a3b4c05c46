"""Which offsets may be committed when records of a partition are finished out of order."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Partition:
    waiting: deque[int] = field(default_factory=deque)
    done: set[int] = field(default_factory=set)
    next_offset: int | None = None


class OffsetTracker:
    """All offsets before the first unfinished one are done. Offsets begin in order; gaps (markers, retention) don't matter."""

    def __init__(self) -> None:
        self._partitions: dict[int, _Partition] = {}

    def __len__(self) -> int:
        """How many have begun and are not finished, or are finished behind one that is not."""
        return sum(len(partition.waiting) for partition in self._partitions.values())

    @property
    def unfinished(self) -> int:
        """How many have begun and are not finished."""
        return sum(len(partition.waiting) - len(partition.done) for partition in self._partitions.values())

    def begin(self, partition: int, offset: int) -> None:
        self._partitions.setdefault(partition, _Partition()).waiting.append(offset)

    def finish(self, partition: int, offset: int) -> None:
        """Idempotent; an offset that never began is ignored."""
        state = self._partitions.get(partition)
        if state is None or not state.waiting or offset < state.waiting[0]:
            return
        state.done.add(offset)
        while state.waiting and state.waiting[0] in state.done:
            first = state.waiting.popleft()
            state.done.discard(first)
            state.next_offset = first + 1

    def committable(self) -> dict[int, int]:
        """The next offset of each partition that has moved since `committed`."""
        return {
            partition: state.next_offset
            for partition, state in self._partitions.items()
            if state.next_offset is not None
        }

    def committed(self, next_offsets: dict[int, int]) -> None:
        """These are in the group now."""
        for partition, offset in next_offsets.items():
            state = self._partitions.get(partition)
            if state is not None and state.next_offset == offset:
                state.next_offset = None

    def clear(self) -> None:
        """The partitions were taken away, or assigned anew: they begin again at what is committed."""
        self._partitions.clear()
