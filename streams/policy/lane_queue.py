"""What admission keeps of one lane: its limits, its classes with their tenants, and what attempts hold. Pure."""

import heapq
from dataclasses import dataclass, field
from typing import Final, Literal

from schemas.base import Priority
from streams.policy.limiter import Limiter, Reason
from streams.policy.sizes import Asked
from streams.policy.turns import Turns
from streams.policy.waiting import TenantQueue

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
class Held:
    asked: Asked
    priority: Priority
    tokens: float
    """Reserved; 0 if the attempt ran before this worker knew of it."""
    answered: bool = False
    accepted_at_ms: int = 0


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


class Lane:
    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.tenants: dict[str, Limiter] = {}
        self.turns: Turns[Priority] = Turns()
        self.classes: dict[Priority, Class] = {}
        self.waiting = 0
        self.why: Why = "turn"
