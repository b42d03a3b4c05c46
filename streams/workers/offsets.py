"""Tracks which offsets may be committed when a partition's records finish out of order.

Finished offsets above the committed one are kept through assignments, and handed to the next owner (`offset_notes`).
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from streams.workers.offset_notes import decode_note, encode_note

PARKED_MAX = 10_000
"""Finished offsets remembered of a partition that was revoked. Beyond it only the commit's note has them."""

Begun = Literal["new", "again", "known"]
"""*Again*: a former owner began it, and may have finished it after its last commit. *Known*: finished or begun here."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The group's commit of a partition; `offset` is None if none was ever made."""

    offset: int | None = None
    note: str = ""


@dataclass(slots=True)
class _Partition:
    floor: int = 0
    """The committed offset at the assignment: no record before it is delivered."""
    begun_to: int = 0
    """All offsets before it have begun here, or never will."""
    told_to: int = 0
    """All offsets before it had begun, here or at a former owner, when the partition was assigned."""
    waiting: deque[tuple[int, int]] = field(default_factory=deque)
    """Offset and time of writing of begun records, in order. The first is not finished."""
    done: set[int] = field(default_factory=set)
    """Finished offsets at or above `next_offset`, from here or from a note."""
    unfinished: int = 0
    changed: bool = True
    committed: Committed = Committed()

    @property
    def next_offset(self) -> int:
        return self.waiting[0][0] if self.waiting else self.begun_to

    def advance(self) -> None:
        while self.waiting and self.waiting[0][0] in self.done:
            self.done.discard(self.waiting.popleft()[0])


class OffsetTracker:
    """Commits up to the first unfinished offset. Offsets begin in order and may have gaps (markers, retention)."""

    def __init__(self) -> None:
        self._owned: dict[int, _Partition] = {}
        self._parked: dict[int, _Partition] = {}

    def __len__(self) -> int:
        """The number of begun offsets from the first unfinished one of each partition on."""
        return sum(len(state.waiting) for state in self._owned.values())

    @property
    def unfinished(self) -> int:
        """The number of offsets that have begun and are not finished."""
        return sum(state.unfinished for state in self._owned.values())

    def oldest_ms(self) -> int | None:
        """When the oldest unfinished record was written; None if all are finished."""
        return min((state.waiting[0][1] for state in self._owned.values() if state.waiting), default=None)

    def assign(self, places: Mapping[int, Committed]) -> None:
        """Set the owned partitions; their records are delivered again from the committed offsets on.

        Begun offsets of a kept partition stay begun, even if another member had the partition meanwhile: finished
        commands stay finished, and the others are performed at least once.
        """
        for partition in self._owned.keys() - places.keys():
            state = self._parked[partition] = self._owned.pop(partition)
            state.waiting.clear()
            state.unfinished = 0
            if len(state.done) > PARKED_MAX:
                state.done.clear()
        for partition, committed in places.items():
            kept = self._owned.get(partition)
            if kept is None:
                kept = self._owned[partition] = self._parked.pop(partition, _Partition())
                kept.begun_to = committed.offset or 0
            _reconcile(kept, committed)

    def begin(self, partition: int, offset: int, at_ms: int) -> Begun:
        """A record was delivered. It must be performed unless it is *known*."""
        state = self._owned.setdefault(partition, _Partition())
        if offset < state.floor:
            # The log is a new one, or was truncated.
            state = self._owned[partition] = _Partition(floor=offset, begun_to=offset)
        if offset < state.begun_to:
            return "known"
        state.begun_to = offset + 1
        if offset in state.done:
            state.waiting.append((offset, at_ms))
            state.advance()
            state.changed = True
            return "known"
        state.waiting.append((offset, at_ms))
        state.unfinished += 1
        return "again" if offset < state.told_to else "new"

    def is_finished(self, partition: int, offset: int) -> bool:
        state = self._owned.get(partition)
        return state is not None and (offset < state.next_offset or offset in state.done)

    def finish(self, partition: int, offset: int) -> None:
        """Mark an offset as finished; idempotent. Also remembered for a revoked partition, which may come back."""
        state = self._owned.get(partition)
        if state is None:
            if partition in self._parked and len(self._parked[partition].done) < PARKED_MAX:
                self._parked[partition].done.add(offset)
            return
        if offset in state.done or offset < state.next_offset:
            return
        state.done.add(offset)
        state.changed = True
        if offset < state.begun_to:
            state.unfinished -= 1
            state.advance()

    def progress(self) -> dict[int, Committed]:
        """Commits of the partitions that changed since the last call.

        If a commit fails, its partition is returned again after the next assignment.
        """
        found: dict[int, Committed] = {}
        for partition, state in self._owned.items():
            if not state.changed or not state.begun_to:
                continue
            state.changed = False
            here = Committed(state.next_offset, encode_note(state.next_offset, state.done))
            if here != state.committed:
                found[partition] = state.committed = here
        return found


def _reconcile(state: _Partition, committed: Committed) -> None:
    """Merge the group's commit and note into the local `state`."""
    state.changed, state.committed = True, committed
    if committed.offset is None:
        return
    told = decode_note(committed.offset, committed.note)
    state.floor = committed.offset
    state.begun_to = max(state.begun_to, committed.offset)
    state.told_to = max(state.begun_to, max(told, default=-1) + 1)
    while state.waiting and state.waiting[0][0] < committed.offset:
        state.waiting.popleft()
    state.done |= told
    state.unfinished = sum(offset not in state.done for offset, _ in state.waiting)
    state.advance()
    state.done = {offset for offset in state.done if offset >= state.next_offset}
