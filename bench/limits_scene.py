"""What the bench of limits plays: jobs, a provider that limits tokens, scenes, and what became of them."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Literal

from schemas.base import Priority
from streams.policy.rates import LimitsTold

Method = Literal["backstop", "sdk", "declared"]
Headers = Literal["true", "none", "zero", "low", "high"]
"""What the answers tell: the limit and what is left, nothing, or a lie (nothing left; a 50th or 50 times the limit)."""


@dataclass(slots=True)
class Job:
    number: int
    tenant: str
    priority: Priority
    input_tokens: int
    output_tokens: int
    run_ms: int
    came_ms: int
    tries: int = 0


class Provider:
    """A bucket of tokens that fills evenly, and is charged what each job really uses."""

    def __init__(self, limit: float, burst_s: float) -> None:
        self.limit, self.burst_s = limit, burst_s
        self.level, self.at_ms = limit * burst_s / 60, 0
        self.away = False
        self.charged: Counter[int] = Counter()
        self.refused: Counter[int] = Counter()
        self.created: Counter[int] = Counter()

    def create(self, job: Job, now_ms: int) -> tuple[bool, int]:
        """Whether it is accepted, and the wait that is told."""
        capacity = self.limit * self.burst_s / 60
        self.level = min(self.level + (now_ms - self.at_ms) * self.limit / 60_000, capacity)
        self.at_ms = now_ms
        self.created[now_ms // 60_000] += 1
        charge = min(job.input_tokens + job.output_tokens, capacity)
        accepted = self.level >= charge
        if accepted:
            self.level -= charge
            self.charged[now_ms // 60_000] += int(charge)
        else:
            self.refused[now_ms // 60_000] += 1
        return accepted, math.ceil((charge - self.level) * 60 / self.limit) * 1_000

    def told(self, headers: Headers) -> LimitsTold | None:
        """What the answer that was just given tells."""
        match headers:
            case "none":
                return None
            case "true":
                return LimitsTold(tokens_per_min=self.limit, tokens_left=max(0.0, self.level))
            case "zero":
                return LimitsTold(tokens_per_min=self.limit, tokens_left=0.0)
            case "low":
                return LimitsTold(tokens_per_min=self.limit / 50, tokens_left=self.level)
            case "high":
                return LimitsTold(tokens_per_min=self.limit * 50, tokens_left=self.limit * 50)


@dataclass(frozen=True, slots=True)
class Scene:
    method: Method = "backstop"
    workers: int = 1
    limit: float = 100_000
    burst_s: float = 60.0
    told_limit: float | None = 100_000
    """What the operator configured. None: the limit is to be found out."""
    headers: Headers = "none"
    minutes: int = 15
    seed: int = 1
    changes: tuple[tuple[int, float], ...] = ()
    """(minute, limit): without notice."""
    floods: bool = False
    """Ten tenants: nine submit steadily, and one drops 10,000 jobs at the fifth minute."""
    flood: bool = True
    """False: the nine alone."""
    bulk: bool = False
    """A bulk backlog, and some interactive jobs."""
    interactive: bool = False
    """Interactive jobs, a few a minute."""
    load: float = 1.5
    """Submitted tokens over the limit."""
    away: tuple[int, int] | None = None
    """Minutes in which the provider refuses the key."""
    backlog: int = 0
    """Jobs that come at once, in the minute `backlog_at`."""
    backlog_at: int = 0
    lies_at: int | None = None
    """Jobs lie at the partitions of this worker alone. None: at all."""
    moves: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """(second, how many partitions each worker owns from then on)."""
    shares: bool = True
    """False: the workers tell each other nothing."""


@dataclass(slots=True)
class Course:
    scene: Scene
    used: dict[int, float] = field(default_factory=dict)
    """By minute: the share of the limit that was charged."""
    refusals: float = 0.0
    """Refused creates over all creates, after the fifth minute."""
    refused_first: float = 0.0
    waits_ms: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Of each tenant or class."""
    refused: dict[int, int] = field(default_factory=dict)
    gave_up: int = 0
    error: float = 0.0
    """Reserved over real tokens, of the last 1,000 jobs, less 1."""
    grants: dict[int, int] = field(default_factory=dict)
    probes: Counter[int] = field(default_factory=Counter)
    """Creates by minute while the provider refused the key."""
    came: int = 0
    accepted_ms: list[int] = field(default_factory=list)
    """Written on `lanes`, by all workers."""
    granted_s: Counter[int] = field(default_factory=Counter)
    """Tokens that grants reserved, by second."""

    def share(self, first: int, last: int) -> float:
        return sum(self.used.get(minute, 0.0) for minute in range(first, last)) / (last - first)

    def granted(self, second: int, seconds: int) -> float:
        """Of the limit, in these seconds."""
        tokens = sum(self.granted_s[each] for each in range(second, second + seconds))
        return tokens * 60 / seconds / self.scene.limit

    def most_granted(self, first: int, last: int) -> float:
        """Of the limit, in any minute between these minutes."""
        return max(self.granted(second, 60) for second in range(first * 60, last * 60 - 59))

    def wait_ms(self, who: str, part: float = 0.99) -> int:
        waits = sorted(self.waits_ms[who])
        return waits[min(int(part * len(waits)), len(waits) - 1)] if waits else 0
