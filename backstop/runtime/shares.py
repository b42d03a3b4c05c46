"""PURE: a bounded thing that is shared among owners: streams, memory of bodies, connections, sending slots, the database's readers.

An owner is a path: the tenant, then its key, or just one name. A *share* is the capacity divided by the owners who hold something or ask
now; inside a tenant, what the tenant may hold is divided by its keys the same way. There are two ways to keep others from waiting:

- What can be taken back (`ask`): everybody may take all there is. Whoever asks for no more than its share gets it at once, and whoever
  holds more than its share loses something for it. So no owner below its share ever waits.
- What can't (`ask_sparing`): an owner that holds something may go on only up to `greed` times what it leaves free. So of the first owner
  there is left 1 / (1 + greed) of all, of the second the same part of that, and so on; a place for one who holds nothing is refused only
  where none is free at all, and waits then no longer than the longest time for which a place may be held.
"""

from dataclasses import dataclass
from typing import Literal

Owner = tuple[str, ...]
"""Of one length for all owners of a thing, and never empty."""

IDLE_MAX = 4_096
"""Owners that are remembered; beyond it those that hold nothing are forgotten."""


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
        self.free = capacity
        self._held: dict[Owner, int] = {}
        """By each beginning of an owner's path."""
        self._paths: dict[Owner, tuple[Owner, ...]] = {}
        """The beginnings of each owner's path, the first one first."""
        self._parts: dict[Owner, set[Owner]] = {}
        """The owners one step below. Those that hold nothing now stay for a while: most come back."""

    def held(self, owner: Owner) -> int:
        return self._held.get(owner, 0)

    def ask(self, owner: Owner, amount: int = 1) -> Answer:
        """For what can be taken back."""
        path = self._paths.get(owner) or self._known(owner)
        if amount <= self.free:
            self._add(path, amount)
            return "granted"
        allowed = self._capacity
        above: Owner = ()
        for part in path:
            sharing = sum(1 for other in self._parts[above] if self._held[other] or other == part)
            if self._held[part] + amount <= allowed // sharing:
                return Evict(self._greediest(above))
            allowed, above = self._held[part], part  # it has its share: only its own can make room
        return "refused"

    def ask_sparing(self, owner: Owner, amount: int = 1) -> bool:
        """For what can't be taken back."""
        left = self.free - amount
        if left < 0:
            return False
        path = self._paths.get(owner) or self._known(owner)
        held = self._held[path[0]]
        if held and held + amount > self._greed * left:
            return False
        self._add(path, amount)
        return True

    def give_back(self, owner: Owner, amount: int = 1) -> None:
        assert 0 <= amount <= self.held(owner), "never more than was granted"
        if amount:
            self._add(self._paths[owner], -amount)

    def _add(self, path: tuple[Owner, ...], amount: int) -> None:
        self.free -= amount
        for part in path:
            self._held[part] += amount

    def _known(self, owner: Owner) -> tuple[Owner, ...]:
        if len(self._paths) >= IDLE_MAX:
            self._forget_idle()
        path = self._paths[owner] = tuple(owner[: depth + 1] for depth in range(len(owner)))
        above: Owner = ()
        for part in path:
            self._held.setdefault(part, 0)
            self._parts.setdefault(above, set()).add(part)
            above = part
        return path

    def _forget_idle(self) -> None:
        self._paths = {owner: path for owner, path in self._paths.items() if self._held[owner]}
        self._held = {part: amount for part, amount in self._held.items() if amount}
        found = {above: {part for part in parts if part in self._held} for above, parts in self._parts.items()}
        self._parts = {above: parts for above, parts in found.items() if parts}

    def _greediest(self, above: Owner) -> Owner:
        found = above
        while parts := self._parts.get(found):
            found = max(parts, key=lambda part: (self._held[part], part))
        return found
