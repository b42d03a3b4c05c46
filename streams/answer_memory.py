"""The memory for what the provider answers, shared by the calls of a process.

An answer is untrusted: it may be a gigabyte, or a kilobyte that unpacks to one. One answer has a limit of its own
(`streams.openai.bounded`). Many large answers at a time wait here for each other: the call that has held memory for
longest always goes on, so no two calls wait for each other, and the total exceeds `bytes_max` by one answer at most.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

FREE_BYTES: Final = 64 << 10
"""A smaller answer is not counted. Nearly all answers are smaller."""

COST: Final = 3
"""Multiple of an answer's bytes: its parts, its parsed texts, and the JSON that is stored."""

VALUE_COST_BYTES: Final = 64
"""Memory of one parsed value that is no text, such as an empty list in its list."""


def cost_bytes(data: bytes) -> int:
    """The memory that `data` (JSON) needs at most once it is parsed, about; 0 if it is too small to count."""
    if len(data) <= FREE_BYTES:
        return 0
    return max(COST * len(data), VALUE_COST_BYTES * sum(map(data.count, (b"[", b"{", b",", b":"))))


class Hold:
    """What one call or one stream holds of the memory."""

    def __init__(self) -> None:
        self.memory: AnswerMemory | None = None

    def release(self) -> None:
        if self.memory is not None:
            self.memory.release(self)


_hold: ContextVar[Hold | None] = ContextVar("hold", default=None)


@contextmanager
def holding() -> Iterator[Hold]:
    """Keep the memory of the answers that are read inside the block until its end. An inner block keeps it for the
    outer one: a worker keeps an answer until it is stored.
    """
    outer = _hold.get()
    if outer is not None:
        yield outer
        return
    hold = Hold()
    token = _hold.set(hold)
    try:
        yield hold
    finally:
        _hold.reset(token)
        hold.release()


class AnswerMemory:
    """Not thread-safe."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held: dict[Hold, int] = {}
        """In the order in which they came."""
        self._changed = asyncio.Event()

    @property
    def held_bytes(self) -> int:
        return sum(self._held.values())

    async def resize(self, hold: Hold, to_bytes: int) -> None:
        """Let `hold` have `to_bytes`; waits until there is room for more."""
        hold.memory = self
        if to_bytes > self._held.setdefault(hold, 0):
            while self._others(hold) + to_bytes > self._bytes_max and next(iter(self._held)) is not hold:
                await self._changed.wait()
        if to_bytes < self._held[hold]:
            self._tell()
        self._held[hold] = to_bytes

    async def resize_for(self, hold: Hold, unread_bytes: int, events: Sequence[bytes]) -> None:
        """As `resize`, for an event of which `unread_bytes` have come, and the `events` before it."""
        unread = COST * unread_bytes if unread_bytes > FREE_BYTES else 0
        needed = max(unread, *map(cost_bytes, events), 0)
        if needed or hold in self._held:
            await self.resize(hold, needed)

    def release(self, hold: Hold) -> None:
        if self._held.pop(hold, None) is not None:
            self._tell()

    def _others(self, hold: Hold) -> int:
        return self.held_bytes - self._held[hold]

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
