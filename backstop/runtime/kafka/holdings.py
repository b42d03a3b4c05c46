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

OF_TENANTS: Final = "requests."
"""How the names of the topics begin on which tenants write their requests."""

FENCED: Final = frozenset({"results"})
"""Topics that may end in a marker: of a fence, or of a transaction of an older release. A reader stops before it, so
that a lag of one is none."""

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
class Snapshot:
    """All groups at one time, and the ends of their topics."""

    at_ms: int
    groups: tuple[GroupSeen, ...]
    ends: Mapping[Partition, int]
    """The offset after the last committed record of each partition."""
    brokers: int
    starts: Mapping[Partition, int] = field(default_factory=dict)
    """The offset of the first record that retention has left."""
    written: Mapping[Partition, int] = field(default_factory=dict)
    """The offset after the last record, which a transaction may still hold back."""
    missing: tuple[str, ...] = ()
    """Topics that do not exist."""


@dataclass(frozen=True, slots=True)
class Holding:
    """One partition as one group reads it."""

    group: str
    topic: str
    partition: int
    holder: str | None
    """The client id of its reader; None: it has none."""
    unassigned_since_ms: int | None
    """When it was first seen without a reader."""
    lag: int
    """Records that are not read yet."""
    next_offset: int | None
    moved_at_ms: int
    """When the reader last moved, or had nothing left to read."""

    near_end_of_retention: bool = False
    """Whether retention may soon delete records that are not read yet."""
    end: int = 0
    """The offset up to which the partition can be read."""
    blocked: int = 0
    """Records that can't be read, as a transaction before them is open. No lag counts them."""
    blocked_since_ms: int = 0

    def blocked_ms(self, now_ms: int) -> int:
        """For how long records are blocked by an open transaction."""
        return max(0, now_ms - self.blocked_since_ms) if self.blocked else 0

    def still_ms(self, now_ms: int) -> int:
        """For how long records wait while the reader does not move."""
        return max(0, now_ms - self.moved_at_ms) if self.lag else 0


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the snapshots so far tell."""

    at_ms: int = 0
    """Of the last snapshot; 0: there was none."""
    brokers: int = 0
    groups: tuple[GroupSeen, ...] = ()
    held: Mapping[tuple[str, Partition], Holding] = field(default_factory=dict)
    """By group and partition."""
    moving_since_ms: Mapping[str, int] = field(default_factory=dict)
    """Since when a group rebalances."""
    away: str | None = None
    """Why the last snapshot failed."""
    missing: tuple[str, ...] = ()
    """Topics that do not exist."""
    away_since_ms: int | None = None

    def saw(self, snapshot: Snapshot) -> "Holdings":
        moving = {
            group.name: self.moving_since_ms.get(group.name, snapshot.at_ms)
            for group in snapshot.groups
            if not group.settled
        }
        held: dict[tuple[str, Partition], Holding] = {}
        for group in snapshot.groups:
            holders = {partition: member.client_id for member in group.members for partition in member.partitions}
            for partition, end in snapshot.ends.items():
                if reads(group.name, partition[0]):
                    key = group.name, partition
                    found = _holding(
                        self.held.get(key), group, partition, end, holders.get(partition), snapshot.at_ms, moving
                    )
                    near = _near(found, snapshot.starts.get(partition, 0), end)
                    back = max(0, snapshot.written.get(partition, end) - end)
                    since_ms = _blocked_since_ms(self.held.get(key), end, back, snapshot.at_ms)
                    held[key] = replace(
                        found, near_end_of_retention=near, end=end, blocked=back, blocked_since_ms=since_ms
                    )
        return Holdings(snapshot.at_ms, snapshot.brokers, snapshot.groups, held, moving, missing=snapshot.missing)

    def missed(self, reason: str, at_ms: int) -> "Holdings":
        """A snapshot failed."""
        return replace(self, away=reason, away_since_ms=self.away_since_ms or at_ms)

    def unassigned(self) -> list[Holding]:
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
        unassigned = found is not None and found.holder is None and self.away is None
        return found if unassigned and not agreeing else None


def _holding(
    before: Holding | None, group: GroupSeen, partition: Partition, end: int, holder: str | None, at_ms: int,
    moving: Mapping[str, int],
) -> Holding:  # fmt: skip
    committed = group.committed.get(partition)
    lag = max(0, end - (committed or 0))
    if lag == 1 and partition[0] in FENCED:
        lag = 0
    moved = before is None or committed != before.next_offset or not lag
    since_ms = at_ms
    if not group.settled:
        since_ms = moving[group.name]
        holder = before.holder if before is not None and at_ms - since_ms < REBALANCE_MS else None
    if before is not None and before.unassigned_since_ms is not None:
        since_ms = before.unassigned_since_ms
    return Holding(
        group.name, *partition, holder, None if holder is not None else since_ms, lag, committed,
        at_ms if before is None or moved else before.moved_at_ms,
    )  # fmt: skip


def reads(group: str, topic: str) -> bool:
    """Whether the group reads the topic."""
    return topic in GROUPS.get(group, ()) or (group == "worker" and topic.startswith(OF_TENANTS))


def _blocked_since_ms(before: Holding | None, end: int, blocked: int, at_ms: int) -> int:
    """Since when the partition can't be read further although records follow."""
    same = before is not None and before.blocked > 0 and before.end == end
    return before.blocked_since_ms if blocked and same and before is not None else at_ms


def _near(found: Holding, start: int, end: int) -> bool:
    return bool(start and found.lag) and (found.next_offset or 0) - start < NEAR_SHARE * (end - start)
