"""How workers divide the limits of one lane: unused share is lent. Pure (decision 0042).

Rules, before the code:
- A worker's base is the part that its partitions are of all. Those that tell what they want (`ShareWanted`) divide what
  they have as base together: each gets what it wants, up to one level for each partition, and what is left is divided
  by partitions. Partitions that no live fact names keep their base.
- A fact is live for `TOLD_FOR_MS`. A partition that several live facts name counts for each in equal parts, so that the
  shares of workers that have read the same facts sum up to 1 at most.
- A worker has more than its base only while it reads its own facts back within `FRESH_MS`: then it has read each fact
  before them. A worker that is cut off keeps what it lent until its facts are live nowhere, and then takes its base.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from schemas.lanes import ShareWanted, WantedPart

TOLD_FOR_MS = 5_000
"""How long a fact counts."""
REFRESH_MS = 2_000
"""While a share is lent or borrowed, each of the workers writes again after this time."""
FRESH_MS = 4_000
"""The last own fact that was read back must be younger than this for more than the base."""
UNREAD_MS = 1_000
"""A fact that is not read back for so long: nothing is written until it is."""
LENT_FOR_MS = REFRESH_MS + UNREAD_MS + TOLD_FOR_MS + 500
"""So long after the last own fact that was read back, a lender takes its base back: its facts are live nowhere."""

LEAST_WANTED = 0.02
"""Part of its base share that a worker wants where it uses nothing: enough to begin a job at once."""

LEVELS = 60
"""Halvings of the interval in which the level is looked for."""

WORKERS_MAX = 1_000
"""Workers remembered of one lane; beyond it the one whose fact is oldest is forgotten."""


@dataclass(frozen=True, slots=True)
class Part:
    """Of one worker. All three are in the same unit."""

    base: float
    wants: float
    holds: float = 0.0


def divide(parts: Sequence[Part], whole: float) -> list[float]:
    """Divide `whole`: to each what it wants, up to a level for each unit of its base, and at least what it holds.

    What is left when all have what they want is divided by base.
    """
    level = _level(parts, whole)
    return _all_wanted(parts, whole) if level is None else _up_to(parts, level)


def first_part(parts: Sequence[Part], whole: float) -> float:
    """What the first of them may have. What it holds beyond it goes to the others, as it ends."""
    level = _level(parts, whole)
    return _all_wanted(parts, whole)[0] if level is None else min(parts[0].wants, parts[0].base * level)


def _all_wanted(parts: Sequence[Part], whole: float) -> list[float]:
    wanted = [max(part.holds, part.wants) for part in parts]
    left, bases = max(0.0, whole - sum(wanted)), sum(part.base for part in parts)
    return [want + (left * (part.base / bases) if bases else 0.0) for want, part in zip(wanted, parts, strict=True)]


def _level(parts: Sequence[Part], whole: float) -> float | None:
    """Up to which level each gets what it wants; None where all get all of it."""
    if sum(max(part.holds, part.wants) for part in parts) <= whole:
        return None
    low, high = 0.0, max((part.wants / part.base for part in parts if part.base), default=0.0)
    for _ in range(LEVELS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(_up_to(parts, middle)) <= whole else (low, middle)
    return low


def _up_to(parts: Iterable[Part], level: float) -> list[float]:
    return [max(part.holds, min(part.wants, part.base * level)) for part in parts]


@dataclass(frozen=True, slots=True)
class LentShare:
    """A worker's part of the limits of a lane, or of a tenant on it."""

    rate: float
    """Of the limits of requests and tokens a minute."""
    slots: int | None = None
    """Attempts in flight; None where there is no limit of them."""


def base_share(base: float, concurrent: int | None) -> LentShare:
    """The share of a worker that neither lends nor borrows. Each worker may have one attempt in flight."""
    return LentShare(base, None if concurrent is None else max(1, int(concurrent * base)))


@dataclass(frozen=True, slots=True)
class _Told:
    fact: ShareWanted
    at_ms: int


class LaneShares:
    """What the workers told of one lane, as one worker read it."""

    def __init__(self, worker: str, partitions: int) -> None:
        """:param partitions: of `jobs`, of all workers together."""
        self._worker = worker
        self._partitions = partitions
        self._told: dict[str, _Told] = {}

    def take(self, fact: ShareWanted, read_ms: int) -> int | None:
        """Take the next fact of the log. A time from a clock ahead counts as the time of reading.

        Returns the tokens that its worker was served since the fact before; None if that is not known.
        """
        before = self._told.pop(fact.worker, None)
        self._told[fact.worker] = _Told(fact, min(read_ms, fact.at_ms))
        if len(self._told) > WORKERS_MAX:
            del self._told[next(iter(self._told))]
        return None if before is None else max(0, fact.served - before.fact.served)

    def needed_by_others(self, now_ms: int) -> bool:
        """Whether another worker needs more than its base."""
        return any(each.needs for each in self._others(now_ms))

    def tenants(self, now_ms: int) -> set[str]:
        """Those that a live fact names."""
        facts = [*self._others(now_ms), *([mine.fact] if (mine := self._told.get(self._worker)) else [])]
        return {tenant for fact in facts for tenant in fact.tenants}

    def forget(self, now_ms: int) -> bool:
        """Forget what no longer counts. Returns whether nothing is left."""
        for worker in [name for name, told in self._told.items() if now_ms - told.at_ms > LENT_FOR_MS]:
            del self._told[worker]
        return not self._told

    def share(self, owned: Collection[int], tenant: str | None, concurrent: int | None, now_ms: int) -> LentShare:
        """As `shares`, of the lane (`tenant` None) or one tenant."""
        return self.shares(owned, {tenant: concurrent}, now_ms)[tenant]

    def shares(
        self, owned: Collection[int], of: Mapping[str | None, int | None], now_ms: int
    ) -> dict[str | None, LentShare]:
        """The shares of this worker, which owns these partitions: of tenants, and of the lane (None).

        :param of: the limit of attempts in flight of each; None where there is none.
        """
        base = {tenant: base_share(len(owned) / self._partitions, slots) for tenant, slots in of.items()}
        mine = self._told.get(self._worker)
        if mine is None or frozenset(mine.fact.partitions) != frozenset(owned):
            return base
        age_ms = now_ms - mine.at_ms
        if age_ms > LENT_FOR_MS:
            return base
        facts = [mine.fact, *self._others(now_ms)]
        named = Counter(partition for fact in facts for partition in fact.partitions)
        bases = [sum(1 / named[each] for each in fact.partitions) / self._partitions for fact in facts]
        divided = {tenant: _divided(facts, bases, tenant, slots) for tenant, slots in of.items()}
        return divided if age_ms <= FRESH_MS else {tenant: _least(base[tenant], divided[tenant]) for tenant in of}

    def _others(self, now_ms: int) -> list[ShareWanted]:
        return [
            told.fact
            for worker, told in self._told.items()
            if worker != self._worker and now_ms - told.at_ms <= TOLD_FOR_MS
        ]


def _divided(
    facts: Sequence[ShareWanted], bases: Sequence[float], tenant: str | None, concurrent: int | None
) -> LentShare:
    """The share of the worker of the first fact."""
    wanted = [_of(fact, tenant) for fact in facts]
    rates = [
        Part(base, LEAST_WANTED * base if want is None else want.rate / 1_000)
        for base, want in zip(bases, wanted, strict=True)
    ]
    rate = first_part(rates, sum(bases))
    if concurrent is None:
        return LentShare(rate)
    slots = [
        Part(base * concurrent, 0.0 if want is None else want.slots, 0.0 if want is None else want.held)
        for base, want in zip(bases, wanted, strict=True)
    ]
    return LentShare(rate, max(1, int(first_part(slots, sum(bases) * concurrent) + 1e-6)))


def _least(one: LentShare, other: LentShare) -> LentShare:
    slots = None if one.slots is None or other.slots is None else min(one.slots, other.slots)
    return LentShare(min(one.rate, other.rate), slots)


def _of(fact: ShareWanted, tenant: str | None) -> WantedPart | None:
    return fact.wanted if tenant is None else fact.tenants.get(tenant)


class Demand:
    """What one worker used of a limit in the last ten seconds, about, and since when it has been short of it."""

    USED_MS = 10_000
    SHORT_GAP_MS = 1_500
    """Waiting jobs ask again within this time."""

    def __init__(self) -> None:
        self._level = 0.0
        self._at_ms = 0
        self._short_since_ms = self._short_at_ms = -self.SHORT_GAP_MS

    def took(self, minutes: float, now_ms: int) -> None:
        """A job took so many minutes of the whole limit."""
        self._level = self._left(now_ms) + minutes
        self._at_ms = max(self._at_ms, now_ms)

    def used(self, now_ms: int) -> float:
        """The part of the limit that was used."""
        return self._left(now_ms) * 60_000 / self.USED_MS

    def short(self, now_ms: int) -> None:
        """A job found no room."""
        if now_ms - self._short_at_ms > self.SHORT_GAP_MS:
            self._short_since_ms = now_ms
        self._short_at_ms = now_ms

    def short_ms(self, now_ms: int) -> int | None:
        """For how long jobs have found no room; None if they do now."""
        return None if now_ms - self._short_at_ms > self.SHORT_GAP_MS else now_ms - self._short_since_ms

    def _left(self, now_ms: int) -> float:
        return self._level * math.exp(-max(0, now_ms - self._at_ms) / self.USED_MS)
