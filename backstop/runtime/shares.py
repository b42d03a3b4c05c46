"""PURE: fair shares of a bounded resource: streams, memory of bodies, connections, sending slots, database readers.

An owner is a path: the tenant, then its key, or just one name. A *share* is the capacity divided by the number of
owners that hold something or ask now; within a tenant, the tenant's part is divided among its keys the same way. Two
rules keep an owner from blocking others:

- Revocable (`ask`): an owner may take everything. An owner that asks within its share gets it at once, and an owner
  above its share loses something for it. So no owner below its share ever waits.
- Irrevocable (`ask_sparing`): an owner that holds something may take more only up to `greed` times what it leaves free.
  So the first owner leaves 1 / (1 + greed) of the capacity, the second the same part of the rest, and so on. An owner
  that holds nothing is refused only while nothing is free, and then waits no longer than the longest time for which a
  place may be held.
"""

from dataclasses import dataclass
from typing import Literal

Owner = tuple[str, ...]
"""All owners of a resource have paths of the same length, never empty."""

IDLE_MAX = 4_096
"""Owners remembered; beyond this, owners that hold nothing are forgotten."""


@dataclass(frozen=True, slots=True)
class Evict:
    """Take something back from this owner, which exceeds its share; then ask again."""

    owner: Owner


Answer = Literal["granted", "refused"] | Evict


class Shares:
    """What each owner holds. Each grant is returned once, by `give_back`."""

    def __init__(self, capacity: int, greed: int = 3) -> None:
        assert capacity >= 1
        assert greed >= 1
        self._capacity = capacity
        self._greed = greed
        self.free = capacity
        self._held: dict[Owner, int] = {}
        """By each prefix of an owner's path."""
        self._paths: dict[Owner, tuple[Owner, ...]] = {}
        """The prefixes of each owner's path, shortest first."""
        self._parts: dict[Owner, set[Owner]] = {}
        """The owners one step below. Owners that hold nothing stay for a while: most come back."""

    def held(self, owner: Owner) -> int:
        return self._held.get(owner, 0)

    def ask(self, owner: Owner, amount: int = 1) -> Answer:
        """Ask for something revocable."""
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
            allowed, above = self._held[part], part  # this level has its share: only its own owners can make room
        return "refused"

    def ask_sparing(self, owner: Owner, amount: int = 1) -> bool:
        """Ask for something irrevocable; whether it was granted."""
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
        assert 0 <= amount <= self.held(owner), "gave back more than was granted"
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
