"""How workers divide a limit: each computes the same division from the same records. Pure.

Rules:
- Each partition of `jobs` has one owner. A worker's base share of each limit is its part of the partitions.
- Once a second each worker tells its demand. Where fresh records cover every partition exactly once, unused share is
  lent: the division is max-min fair, weighted by base shares; what none wants is spread by base shares.
- Otherwise (a rebalance, a worker that is silent) each has its base share, and base shares add up to one.
- A worker takes the lesser of its last two shares, so that one that still acts on the older division and one that acts
  on the newer do not use the same part twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FRESH_MS = 5_000
"""A record that is older does not count."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one worker told of one lane."""

    partitions: frozenset[int]
    wanted: float
    """Tokens (or requests) a minute that it could use."""
    read_at_ms: int
    """By the reader's clock."""


def shares(demands: Mapping[str, Demand], limit: float, partitions: int, now_ms: int) -> dict[str, float] | None:
    """Each worker's part of `limit`, from 0 to 1; None where the records do not cover the partitions."""
    fresh = {name: each for name, each in demands.items() if now_ms - each.read_at_ms <= FRESH_MS and each.partitions}
    if sum(len(each.partitions) for each in fresh.values()) != partitions:
        return None
    if len(frozenset[int]().union(*(each.partitions for each in fresh.values()))) != partitions:
        return None
    names = sorted(fresh)
    bases = [len(fresh[name].partitions) / partitions for name in names]
    given = max_min([max(0.0, fresh[name].wanted) / limit for name in names], bases)
    rest = max(0.0, 1.0 - sum(given))
    return {name: part + rest * base for name, part, base in zip(names, given, bases, strict=True)}


def max_min(wanted: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Divide 1. None gets more than it wants, and one that gets less has, by weight, the largest part."""
    given = [0.0] * len(wanted)
    left, weight_left = 1.0, sum(weights)
    for index in sorted(range(len(wanted)), key=lambda i: wanted[i] / weights[i]):
        part = min(wanted[index], left * weights[index] / weight_left) if weight_left > 0 else 0.0
        given[index] = part
        left -= part
        weight_left -= weights[index]
    return given


@dataclass(slots=True)
class Shares:
    """One worker's share of one lane, over time."""

    base: float
    now: float = -1.0
    before: float = -1.0

    @property
    def part(self) -> float:
        return self.base if self.now < 0 else min(self.now, self.before)

    def divided(self, part: float | None) -> None:
        """Take the next division: `part` is this worker's, None if there is no division."""
        if part is None:
            self.now = self.before = -1.0
            return
        self.before = self.base if self.now < 0 else self.now
        self.now = part
