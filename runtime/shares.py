"""PURE: a bounded thing that is shared among owners: streams, memory of bodies, connections, sending slots, the database's readers.

An owner is a path: the tenant, then its key, or just one name. A *share* is the capacity divided by the owners who hold something or ask
now; inside a tenant, what the tenant may hold is divided by its keys the same way. There are two ways to keep others from waiting:

- What can be taken back (`ask`): everybody may take all there is. Whoever asks for no more than its share gets it at once, and whoever
  holds more than its share loses something for it. So no owner below its share ever waits.
- What can't (`ask_sparing`): an owner that holds something may go on only up to `greed` times what it leaves free. So of the first owner
  there is left 1 / (1 + greed) of all, of the second the same part of that, and so on; a place for one who holds nothing is refused only
  where none is free at all, and waits then no longer than the longest time for which a place may be held.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

Owner = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evict:
    """Take something back from this owner, who holds more than its share; then ask again."""

    owner: Owner


Answer = Literal["granted", "refused"] | Evict


class Shares:
    """Who holds how much. Whatever was granted is given back once, by `give_back`."""

    def __init__(self, capacity: int, greed: int = 3) -> None:
        assert capacity >= 1
        assert greed >= 1
        self._capacity = capacity
        self._greed = greed
        self._held: Counter[Owner] = Counter()
        """By each beginning of an owner's path; the empty one is everybody."""
        self._parts: dict[Owner, set[Owner]] = {}
        """The owners one step below, of those who hold something."""

    @property
    def free(self) -> int:
        return self._capacity - self._held[()]

    def held(self, owner: Owner) -> int:
        return self._held[owner]

    def ask(self, owner: Owner, amount: int = 1) -> Answer:
        """For what can be taken back."""
        if amount <= self.free:
            self._add(owner, amount)
            return "granted"
        allowed = self._capacity
        for depth in range(len(owner)):
            part = owner[: depth + 1]
            parts = self._parts.get(owner[:depth], set()) | {part}
            if self._held[part] + amount <= allowed // len(parts):
                return Evict(self._greediest(owner[:depth]))
            allowed = self._held[part]  # it has its share: only its own can make room
        return "refused"

    def ask_sparing(self, owner: Owner, amount: int = 1) -> bool:
        """For what can't be taken back."""
        if amount > self.free:
            return False
        first = owner[:1]
        if self._held[first] and self._held[first] + amount > self._greed * (self.free - amount):
            return False
        self._add(owner, amount)
        return True

    def give_back(self, owner: Owner, amount: int = 1) -> None:
        assert 0 <= amount <= self._held[owner], "never more than was granted"
        if not amount:
            return
        for depth in range(len(owner), -1, -1):
            part = owner[:depth]
            self._held[part] -= amount
            if not self._held[part]:
                del self._held[part]
                if depth:
                    self._leave(owner[: depth - 1], part)

    def _add(self, owner: Owner, amount: int) -> None:
        for depth in range(len(owner) + 1):
            self._held[owner[:depth]] += amount
            if depth:
                self._parts.setdefault(owner[: depth - 1], set()).add(owner[:depth])

    def _leave(self, above: Owner, part: Owner) -> None:
        self._parts[above].discard(part)
        if not self._parts[above]:
            del self._parts[above]

    def _greediest(self, above: Owner) -> Owner:
        found = above
        while parts := self._parts.get(found):
            found = max(parts, key=lambda part: (self._held[part], part))
        return found
