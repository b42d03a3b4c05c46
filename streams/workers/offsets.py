"""Which offsets may be committed when records of a partition are finished out of order, and what is finished behind those.

What is finished is known for as long as it matters: through assignments, and from one owner to the next (`workers.notes`).
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from streams.workers.offset_notes import decode_note, encode_note

PARKED_MAX = 10_000
"""Finished offsets that are remembered of a partition that is another member's now. Beyond it only the commit's note tells."""

Begun = Literal["new", "again", "known"]
"""*Again*: somebody had begun it, and may have finished it after the last commit. *Known*: it is finished, or on its way here."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What the group has of a partition; `offset` is None where nothing was ever committed."""

    offset: int | None = None
    note: str = ""


@dataclass(slots=True)
class _Partition:
    floor: int = 0
    """What the group had when the partition was assigned: the first that can come."""
    begun_to: int = 0
    """All before it have begun here, or never will."""
    told_to: int = 0
    """All before it had begun somewhere when the partition was assigned."""
    waiting: deque[tuple[int, int]] = field(default_factory=deque)
    """Offset and time of writing of what has begun; the first is not finished."""
    done: set[int] = field(default_factory=set)
    """What is finished, or was told to be, behind `next_offset`."""
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
    """All offsets before the first unfinished one are done. Offsets begin in order; gaps (markers, retention) don't matter."""

    def __init__(self) -> None:
        self._owned: dict[int, _Partition] = {}
        self._parked: dict[int, _Partition] = {}

    def __len__(self) -> int:
        """How many have begun and are not finished, or are finished behind one that is not."""
        return sum(len(state.waiting) for state in self._owned.values())

    @property
    def unfinished(self) -> int:
        """How many have begun and are not finished."""
        return sum(state.unfinished for state in self._owned.values())

    def oldest_ms(self) -> int | None:
        """When the oldest that is not finished was written; None where all are."""
        return min((state.waiting[0][1] for state in self._owned.values() if state.waiting), default=None)

    def assign(self, places: Mapping[int, Committed]) -> None:
        """Exactly these partitions are ours; their records come again from what is committed on.

        What has begun in a partition that we keep stays begun, and that somebody else may have had it meanwhile does not matter: what
        was finished is finished, and the rest is done at least once.
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
        """A record has come. Only where it is not *known* is there anything to do."""
        state = self._owned.setdefault(partition, _Partition())
        if offset < state.floor:
            # The log is another one: it was deleted, or has lost its end.
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
        """Idempotent. Of a partition that is not ours any more it is remembered, in case it comes back."""
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
        """To be committed: each partition that has moved since this was asked last.

        What is not committed then is told again after the next assignment.
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
    """`state`, our own, with what the group has of it."""
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
