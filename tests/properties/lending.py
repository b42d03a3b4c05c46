"""Workers that share limits over one log, in virtual time: each reads with delays of its own, by a clock of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from schemas.codec import decode, encode
from schemas.lanes import LANE_FACT, CreateFact, LimitFact
from streams.policy.admission import Admission
from streams.policy.lending import LentShare
from streams.policy.limiter import Limiter
from streams.policy.limits import LimitRules
from streams.policy.rates import NotNow
from streams.policy.shared_limits import SharedLimits
from streams.policy.sizes import Asked

ACCOUNT = "0" * 8
PARTITIONS = 12
TICK_MS = 100
TELL_MS = 200
T0 = 1_795_341_600_000
ASKED = Asked("t", "m", 4_000, 1_000)


@dataclass
class Worker:
    name: str
    rules: LimitRules
    skew_ms: int = 0
    owned: frozenset[int] = frozenset()
    wants: float = 0.0
    """The part of the limit that its jobs would use."""
    alive: bool = True
    reads: bool = True
    writes: bool = True
    position: int = 0
    admission: Admission = field(init=False)
    limits: SharedLimits = field(init=False)

    def __post_init__(self) -> None:
        self.admission = Admission(self.rules, ACCOUNT)
        self.limits = SharedLimits(self.admission, self.rules, ACCOUNT, self.name, PARTITIONS)

    def own(self, partitions: Sequence[int], now_ms: int) -> None:
        self.owned = frozenset(partitions)
        self.limits.own(self.owned)
        self.admission.own(self.owned, len(self.owned) / PARTITIONS, now_ms)

    @property
    def limiter(self) -> Limiter:
        return dict(self.admission.limiters("m"))[None]

    @property
    def share(self) -> LentShare:
        return LentShare(self.limiter.share if self.owned else 0.0, self.limiter.slots if self.owned else 0)


class Fleet:
    def __init__(self, rules: LimitRules, workers: int, random: Random, delay_ms: tuple[int, int]) -> None:
        self.random, self.delay_ms = random, delay_ms
        self.now_ms = T0
        self.workers = [Worker(f"w{number}", rules) for number in range(workers)]
        self.log: list[tuple[LimitFact, dict[str, int]]] = []
        """Each fact, and when each worker can read it."""
        self.divide()

    def divide(self) -> None:
        """Partitions are divided among the workers that live."""
        live = [worker for worker in self.workers if worker.alive]
        for number, worker in enumerate(live):
            worker.own([each for each in range(PARTITIONS) if each % len(live) == number], self.now_ms)

    def tick(self) -> None:
        """A tenth of a second passes."""
        self.now_ms += TICK_MS
        for worker in self.workers:
            now_ms = self.now_ms + worker.skew_ms
            while worker.reads and worker.position < len(self.log):
                fact, readable_ms = self.log[worker.position]
                if readable_ms[worker.name] > self.now_ms:
                    break
                worker.position += 1
                worker.limits.take(fact, now_ms)
            if not worker.alive:
                continue
            worker.admission.may_spend(ASKED, now_ms)  # The lane is known.
            if worker.wants > worker.share.rate:
                worker.limiter.short(NotNow("tokens_per_min", 500), now_ms)
            worker.limiter.demand.took(min(worker.wants, worker.share.rate) * TICK_MS / 60_000, now_ms)
            if self.now_ms % TELL_MS == 0:
                self._tell(worker, now_ms)

    def run(self, ms: int) -> None:
        for _ in range(ms // TICK_MS):
            self.tick()

    def told(self, kind: str = "share_wanted") -> int:
        return sum(fact.type == kind for fact, _ in self.log)

    def sum(self) -> float:
        return sum(worker.share.rate for worker in self.workers if worker.alive)

    def _tell(self, worker: Worker, now_ms: int) -> None:
        for fact in worker.limits.tell(now_ms):
            if not worker.writes:
                worker.limits.lost(fact)
                continue
            read = decode(LANE_FACT, encode(fact))
            assert not isinstance(read, CreateFact)
            before = self.log[-1][1] if self.log else {}
            self.log.append(
                (
                    read,
                    {
                        each.name: max(before.get(each.name, 0), self.now_ms + self.random.randint(*self.delay_ms))
                        for each in self.workers
                    },
                )
            )
