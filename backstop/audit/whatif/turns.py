"""Keeps the facts of each key in the order of the log where a clock let an effect seem older than its cause. Pure."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from backstop.audit.whatif.recorded import Recorded

Key = tuple[str, str]
"""Log and key."""
Place = tuple[int, int]


class FactTurns:
    """The facts of each key have their turn in the order of their places, once each."""

    def __init__(self, recorded: Recorded) -> None:
        self._due: dict[Key, deque[Place]] = {}
        self._early: dict[Key, dict[Place, Any]] = {}
        self._moved: list[Key] = []
        notes = (noted for found in recorded.by_id.values() for noted in found)
        for noted in sorted(notes, key=lambda each: each.place):
            self._due.setdefault((noted.fact.topic, noted.fact.key), deque()).append(noted.place)

    def come(self, key: Key, place: Place, entry: Any) -> bool:
        """Whether the fact has its turn now. It waits where an older one of its key has not come."""
        due = self._due[key]
        if not due or place < due[0]:
            return False
        if place > due[0]:
            self._early.setdefault(key, {})[place] = entry
            return False
        due.popleft()
        self._moved.append(key)
        return True

    def ready(self, *, idle: bool) -> Iterator[Any]:
        """What waited, and has its turn. `idle`: nothing else can come, so what is missing is passed over."""
        keys = list(self._early) if idle else self._moved
        found = [key for key in keys if self._heads(key)]
        if idle and not found and keys:
            self._pass_over(keys[0])
            found = keys[:1]
        self._moved = []
        for key in found:
            early = self._early[key]
            yield early.pop(self._due[key][0])
            if not early:
                del self._early[key]

    def _heads(self, key: Key) -> bool:
        due = self._due[key]
        return bool(due) and due[0] in self._early.get(key, {})

    def _pass_over(self, key: Key) -> None:
        while not self._heads(key):
            self._due[key].popleft()
