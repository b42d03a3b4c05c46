"""The holder of each partition, since when it has none, and how long its reader has stood still. Pure.

A group that rebalances has no assignment. Its partitions count as held by their former holder for `REBALANCE_MS`, which
a healthy rebalance does not take; then they count as not held.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from backstop.runtime.records import Partition

SETTLED: Final = frozenset({"Stable", "Empty", "Dead"})
"""States of a group in which its assignment is known; in the others it rebalances."""
REBALANCE_MS: Final = 10_000

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "worker": ("requests", "jobs", "responses"),
    "submitter": ("submissions",),
    "poller": ("polls",),
    "readmodel": ("jobs", "responses", "results"),
}
"""The groups without which jobs stand still, and the topics that each reads."""

TRANSACTIONAL: Final = frozenset({"results"})
"""Topics whose records are followed by a marker of their transaction. A reader stops before it: one is no lag."""

NEAR_SHARE: Final = 0.1
"""Unread records that begin in the oldest tenth of a log from which retention deletes may soon be lost."""


@dataclass(frozen=True, slots=True)
class Member:
    client_id: str
    host: str
    """The address from which it is connected."""
    partitions: frozenset[Partition]


@dataclass(frozen=True, slots=True)
class GroupSeen:
    """A group at one time. Topics and group are named without the prefix."""

    name: str
    state: str
    members: tuple[Member, ...]
    committed: Mapping[Partition, int]
    """The next offset to be read of each partition that was ever committed."""

    @property
    def settled(self) -> bool:
        return self.state in SETTLED


@dataclass(frozen=True, slots=True)
class Look:
    """All groups at one time, and the ends of their topics."""

    at_ms: int
    groups: tuple[GroupSeen, ...]
    ends: Mapping[Partition, int]
    """The offset after the last committed record of each partition."""
    brokers: int
    starts: Mapping[Partition, int] = field(default_factory=dict)
    """The offset of the first record that retention has left."""


@dataclass(frozen=True, slots=True)
class Holding:
    """One partition as one group reads it."""

    group: str
    topic: str
    partition: int
    holder: str | None
    """The client id of its reader; None: it has none."""
    unheld_since_ms: int | None
    """When it was first seen without a reader."""
    lag: int
    """Records that are not read yet."""
    next_offset: int | None
    moved_at_ms: int
    """When the reader last moved, or had nothing left to read."""

    near_end_of_retention: bool = False
    """Whether retention may soon delete records that are not read yet."""

    def still_ms(self, now_ms: int) -> int:
        """For how long records wait while the reader does not move."""
        return max(0, now_ms - self.moved_at_ms) if self.lag else 0


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the looks so far tell."""

    at_ms: int = 0
    """Of the last look; 0: there was none."""
    brokers: int = 0
    groups: tuple[GroupSeen, ...] = ()
    held: Mapping[tuple[str, Partition], Holding] = field(default_factory=dict)
    """By group and partition."""
    moving_since_ms: Mapping[str, int] = field(default_factory=dict)
    """Since when a group rebalances."""
    away: str | None = None
    """Why the last look failed."""
    away_since_ms: int | None = None

    def saw(self, look: Look) -> "Holdings":
        moving = {
            group.name: self.moving_since_ms.get(group.name, look.at_ms) for group in look.groups if not group.settled
        }
        held: dict[tuple[str, Partition], Holding] = {}
        for group in look.groups:
            holders = {partition: member.client_id for member in group.members for partition in member.partitions}
            for partition, end in look.ends.items():
                if partition[0] in GROUPS.get(group.name, ()):
                    key = group.name, partition
                    found = _holding(
                        self.held.get(key), group, partition, end, holders.get(partition), look.at_ms, moving
                    )
                    near = _near(found, look.starts.get(partition, 0), end)
                    held[key] = replace(found, near_end_of_retention=near)
        return Holdings(look.at_ms, look.brokers, look.groups, held, moving)

    def missed(self, reason: str, at_ms: int) -> "Holdings":
        """A look failed."""
        return replace(self, away=reason, away_since_ms=self.away_since_ms or at_ms)

    def unheld(self) -> list[Holding]:
        """Partitions without a reader, in order. Without a broker nothing is known."""
        if self.away is not None:
            return []
        return sorted(
            (each for each in self.held.values() if each.holder is None),
            key=lambda each: (each.group, each.topic, each.partition),
        )

    def idle(self, partition: Partition) -> Holding | None:
        """The partition of a log, if no worker holds it. While workers agree who takes it, one is on its way."""
        found = self.held.get(("worker", partition))
        moving_since_ms = self.moving_since_ms.get("worker")
        agreeing = moving_since_ms is not None and self.at_ms - moving_since_ms < REBALANCE_MS
        unheld = found is not None and found.holder is None and self.away is None
        return found if unheld and not agreeing else None


def _holding(
    before: Holding | None, group: GroupSeen, partition: Partition, end: int, holder: str | None, at_ms: int,
    moving: Mapping[str, int],
) -> Holding:  # fmt: skip
    committed = group.committed.get(partition)
    lag = max(0, end - (committed or 0) - (partition[0] in TRANSACTIONAL))
    moved = before is None or committed != before.next_offset or not lag
    since_ms = at_ms
    if not group.settled:
        since_ms = moving[group.name]
        holder = before.holder if before is not None and at_ms - since_ms < REBALANCE_MS else None
    if before is not None and before.unheld_since_ms is not None:
        since_ms = before.unheld_since_ms
    return Holding(
        group.name, *partition, holder, None if holder is not None else since_ms, lag, committed,
        at_ms if before is None or moved else before.moved_at_ms,
    )  # fmt: skip


def _near(found: Holding, start: int, end: int) -> bool:
    return bool(start and found.lag) and (found.next_offset or 0) - start < NEAR_SHARE * (end - start)
