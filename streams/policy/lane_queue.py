"""What admission keeps of one lane: its limits, its classes with their tenants, and what attempts hold. Pure."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from schemas.base import Priority
from streams.policy.limiter import Limiter
from streams.policy.limits import CLASS_WEIGHTS
from streams.policy.rates import Reason
from streams.policy.sizes import Asked
from streams.policy.standing import Member, Standings
from streams.policy.tiers import Standing
from streams.policy.turns import Turns
from streams.policy.waiting import TenantQueue, Waiter

Why = Literal[
    "turn", Reason, "lane",
    "tenant_concurrent", "tenant_requests_per_min", "tenant_tokens_per_min", "tenant_tokens_per_day",
]  # fmt: skip
"""What the job whose turn it is waits for. `lane`: the lane is closed, or opens slowly after an outage."""

WHY_OF_TENANT: Final[dict[Reason, Why]] = {
    "concurrent": "tenant_concurrent",
    "requests_per_min": "tenant_requests_per_min",
    "tokens_per_min": "tenant_tokens_per_min",
    "tokens_per_day": "tenant_tokens_per_day",
}


@dataclass(slots=True)
class ReservedAttempt:
    asked: Asked
    priority: Priority
    tokens: float
    """Reserved; 0 if the attempt ran before this worker knew of it."""
    standing: Standing = "beyond"
    lane_ms: float | None = None
    """How long the lane is expected to be busy with it."""
    answered: bool = False
    accepted_at_ms: int = 0
    of_day: float | None = None
    """Reserved of the day, where this is not `tokens`."""


@dataclass(slots=True)
class Class:
    tenants: Turns[str] = field(default_factory=Turns)
    queues: dict[str, TenantQueue] = field(default_factory=dict)
    parked: list[tuple[int, str]] = field(default_factory=list)
    """Tenants at a limit of their own, by the time at which to look again."""
    parked_names: set[str] = field(default_factory=set)

    def park(self, tenant: str, until_ms: int) -> None:
        self.tenants.leave(tenant)
        self.parked_names.add(tenant)
        heapq.heappush(self.parked, (until_ms, tenant))


class Rank:
    """The members of one rank that wait: the classes have turns, and the tenants of each class."""

    def __init__(self, *, within: bool) -> None:
        self.within = within
        self.turns: Turns[Priority] = Turns()
        self.classes: dict[Priority, Class] = {}

    def put(self, member: Member, queue: TenantQueue, weight: float) -> None:
        priority, tenant = member
        group = self.classes.setdefault(priority, Class())
        group.queues[tenant] = queue
        if tenant not in group.parked_names:
            self.join(member, weight)

    def join(self, member: Member, weight: float) -> None:
        """The member has turns from now on."""
        priority, tenant = member
        self.turns.join(priority, CLASS_WEIGHTS[priority])
        self.classes[priority].tenants.join(tenant, weight)

    def queue(self, member: Member) -> TenantQueue:
        """The jobs of a member of this rank."""
        return self.classes[member[0]].queues[member[1]]

    def take(self, member: Member) -> None:
        """The member no longer waits in this rank."""
        priority, tenant = member
        group = self.classes[priority]
        del group.queues[tenant]
        group.tenants.leave(tenant)
        if not group.queues:
            self.turns.leave(priority)

    def first(self) -> Priority | None:
        """The class whose turn it is. Interactive jobs within their share need no turn."""
        if self.within and (interactive := self.classes.get("interactive")) and interactive.tenants.first() is not None:
            return "interactive"
        return self.turns.first()

    def standing(self, priority: Priority) -> Standing:
        if not self.within:
            return "beyond"
        return "ahead" if priority == "interactive" else "within"


class LaneQueue:
    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.tenants: dict[str, Limiter] = {}
        self.within, self.beyond = Rank(within=True), Rank(within=False)
        self.standings = Standings()
        self.waiting = 0
        self.used_ms = 0
        """When a job last joined the lane or began on it."""
        self.why: Why = "turn"
        self._rank_of: dict[Member, Rank] = {}
        """Of each member with waiting jobs."""

    @property
    def ranks(self) -> tuple[Rank, Rank]:
        """In the order in which they go."""
        return self.within, self.beyond

    def rank(self, standing: Standing) -> Rank:
        return self.beyond if standing == "beyond" else self.within

    def put(self, waiter: Waiter, weight: float, lane_ms: float | None, now_ms: int) -> None:
        """`lane_ms`: how long the lane is expected to be busy with the job; None where that is not known."""
        member = (waiter.priority, waiter.asked.tenant)
        rank = self._rank_of.get(member)
        queue = TenantQueue() if rank is None else rank.queue(member)
        queue.put(waiter)
        self.waiting += 1
        self._place(member, queue, weight, lane_ms, now_ms)

    def standing(self, member: Member, weight: float, lane_ms: float | None, count: int, now_ms: int) -> Standing:
        """Of a member with `count` jobs waiting. Where no use can be told, none is within its share."""
        return "beyond" if lane_ms is None else self.standings.of(member, weight, count * lane_ms, now_ms)

    def _place(
        self, member: Member, queue: TenantQueue, weight: float, lane_ms: float | None, now_ms: int
    ) -> None:  # fmt: skip
        """Put `member` into the rank of its standing."""
        before = self._rank_of.get(member)
        after = self.rank(self.standing(member, weight, lane_ms, len(queue), now_ms))
        if after is before:
            return
        if before is not None:
            before.take(member)
        self._rank_of[member] = after
        after.put(member, queue, weight)

    def remove(self, waiter: Waiter) -> None:
        """`waiter`, which waits here, was granted or no longer waits."""
        member = (waiter.priority, waiter.asked.tenant)
        rank = self._rank_of[member]
        queue = rank.queue(member)
        queue.remove(waiter)
        self.waiting -= 1
        if not queue:
            self.left(member)

    def left(self, member: Member) -> None:
        """No job of `member` waits any more."""
        self._rank_of.pop(member).take(member)

    def queue(self, member: Member) -> TenantQueue:
        """The jobs of a member that waits."""
        return self._rank_of[member].queue(member)

    def used(self, held: ReservedAttempt, weight: float, now_ms: int) -> None:
        """`held` begins. Its member goes to the other rank if it passes its share by that, or is below it again."""
        member = (held.priority, held.asked.tenant)
        if held.lane_ms is not None:
            self.standings.used(member, weight, held.lane_ms, now_ms)
        rank = self._rank_of.get(member)
        if rank is not None:
            self._place(member, rank.queue(member), weight, held.lane_ms, now_ms)

    def served(self, member: Member, tokens: float, standing: Standing) -> None:
        rank = self.rank(standing)
        rank.turns.served(member[0], tokens)
        if (group := rank.classes.get(member[0])) is not None:
            group.tenants.served(member[1], tokens)

    def corrected(self, held: ReservedAttempt, used: float, lane_ms: float | None) -> None:
        """What `held` reserved turned out to be `used`, and to keep the lane busy for `lane_ms`."""
        rank, tenant = self.rank(held.standing), held.asked.tenant
        rank.turns.corrected(held.priority, held.tokens, used)
        if (group := rank.classes.get(held.priority)) is not None:
            group.tenants.corrected(tenant, held.tokens, used)
        if held.lane_ms is not None and lane_ms is not None:
            self.standings.corrected((held.priority, tenant), held.lane_ms - lane_ms)

    def forget_idle_tenant(self) -> None:
        """Of the tenants with limits of their own, the one that took room longest ago and has nothing in flight."""
        idle = [tenant for tenant, limiter in self.tenants.items() if not limiter.in_flight]
        if idle:
            del self.tenants[min(idle, key=lambda tenant: self.tenants[tenant].taken_ms)]

    def unpark(self, weight: Callable[[str], float], now_ms: int) -> None:
        """Give turns again to the tenants whose own limits are to be looked at again. `weight`: of a tenant."""
        for rank in self.ranks:
            for priority, group in rank.classes.items():
                while group.parked and group.parked[0][0] <= now_ms:
                    _, tenant = heapq.heappop(group.parked)
                    group.parked_names.discard(tenant)
                    if tenant in group.queues:
                        rank.join((priority, tenant), weight(tenant))

    def parked_until_ms(self) -> int | None:
        """When to look again at a tenant at a limit of its own; None if there is none."""
        groups = [group for rank in self.ranks for group in rank.classes.values() if group.parked]
        return min((group.parked[0][0] for group in groups), default=None)
