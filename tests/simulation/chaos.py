"""Faults: the life, the place and the kind of each are drawn from the seed. Each seed has its own mixture of faults.

A *life* is one run of a process. Each effect of a life on the outside passes `point`, where the life may be delayed,
stopped (SIGSTOP), or killed (SIGKILL). A dead life never passes a point again, so its remaining tasks have no effect.
"""

import asyncio
import traceback
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from streams.policy.limits import NO_LIMITS, LimitRules

EPOCH_MS = 1_750_000_000_000
"""The time at which virtual time begins."""

TRACE_STEPS_MAX = 4_000
AWAY_FROM_S = 10.0


@dataclass(frozen=True, slots=True)
class Mixture:
    """The rate of each fault, per passing of a point or per call. Swarm testing: most are off in any one seed."""

    crash: float
    pause: float
    rebalance: float
    refuse: float
    """A publish fails, and no record lands, or only the first part."""
    lost_ack: float
    late: float
    """A publish fails, and its records land seconds later."""
    slow: float
    store_lost: float
    """The local stores are gone at a start."""
    gap: float
    """Some offsets before a record stay empty."""
    create_fault: float
    poll_fault: float
    cancel_fault: float
    webhook_lost: float
    webhook_odd: float
    run_odd: float
    skew_ms: int
    outages: int
    """Number of outages of the broker, a few seconds each."""
    static: bool
    batch_records_max: int
    compacts: bool
    adopted_per: int = 8
    """One response is adopted for every `adopted_per` jobs; 0: none."""
    outlast: float = 0.0
    """The share of failures after acceptance, and of passing refusals, among the ends and create faults that a seed
    draws.
    """
    hedge: float = 0.0
    """The share of jobs that ask for a second attempt beside a slow one."""
    capped: float = 0.0
    """The share of jobs with a cap of their own, of a few attempts."""
    falls_back: float = 0.0
    """The share of jobs that may go on with another model."""
    create_only: str = ""
    """The only fault of creates; empty: any. Tests, not seeds, set this and the fields below (see `Chaos`)."""
    poll_only: str = ""
    run_only: str = ""
    provider_away: tuple[tuple[float, float, str], ...] = ()
    """(from, to, answer): seconds of the run between which all creates get one answer, a name in
    `provider.HEARD`; behind `provider.POLLS_TOO`, polls as well."""
    webhook_late_s: float = 0.0
    """Added to the delay of every webhook."""
    clock_s: float = 0.0
    """By how much the provider's clock is ahead of the broker's."""
    away_s: float = 0.0
    """Duration of one more outage of the broker."""
    arrival_s: float = 12.0
    faults_end_s: float = 45.0


def draw_mixture(random: Random) -> Mixture:
    pick = random.choice
    calm = random.random() < 0.04
    return Mixture(
        crash=0.0 if calm else pick((0.0, 0.0008, 0.002, 0.006)),
        pause=0.0 if calm else pick((0.0, 0.0004, 0.001, 0.002)),
        rebalance=pick((0.0, 0.0, 0.0005, 0.002)),
        refuse=pick((0.0, 0.01, 0.04)),
        lost_ack=pick((0.0, 0.01, 0.05)),
        late=pick((0.0, 0.0, 0.01, 0.03)),
        slow=pick((0.01, 0.05)),
        store_lost=pick((0.0, 0.5, 1.0)),
        gap=pick((0.0, 0.1)),
        create_fault=pick((0.0, 0.15, 0.5)),
        poll_fault=pick((0.0, 0.15, 0.5)),
        cancel_fault=pick((0.0, 0.5)),
        webhook_lost=pick((0.0, 0.15, 1.0)),
        webhook_odd=pick((0.0, 0.3)),
        run_odd=pick((0.05, 0.3)),
        skew_ms=pick((0, 0, 300, 1_500)),
        outages=pick((0, 0, 0, 1, 2)),
        static=random.random() < 0.5,
        batch_records_max=pick((1, 6, 50, 500)),
        compacts=random.random() < 0.3,
    )


@dataclass(slots=True)
class Met:
    """The events that this run met: the generator is tested, too."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, what: str, count: int = 1) -> None:
        self.counts[what] += count


class Chaos:
    """The faults of the seed, until `calm_down`."""

    def __init__(
        self, seed: int, loop: asyncio.AbstractEventLoop, *, trace: bool, aimed: Mapping[str, Any] | None = None
    ) -> None:
        """`aimed`: fields of the mixture that a test sets instead of the seed."""
        self.random = Random(f"chaos {seed}")
        self.seed = seed
        self.limits: LimitRules = NO_LIMITS
        """The limits of all processes."""
        outlast = Random(f"outlast {seed}").choice((0.0, 0.5))
        hedge = Random(f"hedge {seed}").choice((0.0, 1.0))
        self.mixture = replace(draw_mixture(self.random), **{"outlast": outlast, "hedge": hedge, **(aimed or {})})
        self.loop = loop
        self.met = Met()
        self.on = True
        self.steps: deque[tuple[float, str, str, str]] = deque(maxlen=None if trace else TRACE_STEPS_MAX)
        self.rebalance_any: Callable[[], None] = lambda: None
        self.lives: list[Life] = []
        self.defects: list[str] = []
        """Exceptions that no part may raise under any fault."""
        self._planned = self._plan()
        self._away = [(start_s, start_s + self.random.choice((1.0, 6.0))) for start_s in self._instants()]
        self._away.append((AWAY_FROM_S, AWAY_FROM_S + self.mixture.away_s))

    def _instants(self) -> list[float]:
        return [self.random.random() * 40 for _ in range(self.mixture.outages)]

    def _plan(self) -> dict[str, int]:
        """Places at which a life dies, in addition to the rate: place → at which passing."""
        if not self.mixture.crash:
            return {}
        places = self.random.sample(CRASH_POINTS, 3)
        return {place: 1 + int(self.random.expovariate(1 / 6)) for place in places}

    def note(self, who: str, what: str, detail: str = "") -> None:
        self.steps.append((self.loop.time(), who, what, detail))

    def defect(self, error: Exception) -> None:
        where = traceback.extract_tb(error.__traceback__)[-1]
        self.defects.append(f"{error!r} at {where.filename.rsplit('/', 2)[-2]}/{where.name}:{where.lineno}")

    def chance(self, share: float) -> bool:
        return self.on and share > 0 and self.random.random() < share

    def away(self) -> bool:
        """Whether the broker is in an outage now."""
        now_s = self.loop.time()
        away = self.on and any(start_s <= now_s < end_s for start_s, end_s in self._away)
        if away:
            self.met.add("broker away")
        return away

    def refuses(self) -> bool:
        return self.away() or self.chance(self.mixture.refuse)

    def calm_down(self) -> None:
        """End all faults. Stopped lives continue."""
        self.on = False
        for life in self.lives:
            life.resume()

    def due_to_die(self, place: str) -> bool:
        left = self._planned.get(place)
        if left is None:
            return False
        self._planned[place] = left - 1
        return left == 1


class Life:
    """One run of a process, from its start to any end."""

    def __init__(self, chaos: Chaos, name: str, skew_ms: int) -> None:
        self.chaos = chaos
        self.name = name
        self.dead = False
        self.immortal = False
        """An immortal life is refused and delayed, but neither killed nor stopped."""
        self.ended = asyncio.Event()
        self.why = ""
        self._skew_ms = skew_ms
        self._tasks: list[asyncio.Task[Any]] = []
        self._going: asyncio.Event | None = None
        self._pauses = 0
        self.on_silence: list[Callable[[Callable[[], bool]], None]] = []
        """Called when the life falls silent, with a function that tells whether it is still silent."""
        chaos.lives.append(self)

    def now_ms(self) -> int:
        return EPOCH_MS + int(self.chaos.loop.time() * 1000) + self._skew_ms

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self.chaos.loop.create_task(coroutine)
        self._tasks.append(task)
        return task

    async def point(self, place: str) -> None:
        """A place where faults strike. Between two points a life can't be stopped."""
        if self.dead:
            raise asyncio.CancelledError
        chaos = self.chaos
        chaos.steps.append((chaos.loop.time(), self.name, place, ""))
        draw = chaos.random.random()
        if chaos.on and not self.immortal:
            mixture = chaos.mixture
            if draw < mixture.crash or (chaos._planned and chaos.due_to_die(place)):
                chaos.met.add(f"crash at {place}")
                self.kill(f"killed at {place}")
                raise asyncio.CancelledError
            draw -= mixture.crash
            if draw < mixture.pause:
                self.pause(chaos.random.choice((0.3, 2.0, 5.0, 9.0, 25.0)))
                chaos.met.add(f"stopped at {place}")
            elif draw < mixture.pause + mixture.rebalance:
                chaos.rebalance_any()
            elif draw > 1 - mixture.slow:
                await asyncio.sleep(chaos.random.choice((0.05, 0.4, 2.5)))
        if 0.5 < draw < 0.62:
            await asyncio.sleep(chaos.random.random() * 0.02)
        elif 0.4 < draw <= 0.5:
            await asyncio.sleep(0)
        while self._going is not None:
            await self._going.wait()
        if self.dead:
            raise asyncio.CancelledError

    def pause(self, for_s: float) -> None:
        if self._going is not None or self.dead:
            return
        self.chaos.note(self.name, "STOPPED", f"for {for_s} s")
        self._going = asyncio.Event()
        self._pauses += 1
        pauses = self._pauses
        self.chaos.loop.call_later(for_s, self.resume)
        self._fall_silent(lambda: not self.dead and self._going is not None and self._pauses == pauses)

    def resume(self) -> None:
        if self._going is not None:
            self.chaos.note(self.name, "CONTINUED")
            self._going.set()
            self._going = None

    def kill(self, why: str) -> None:
        """SIGKILL or an exit: no further effect of this life reaches the outside."""
        if self.dead:
            return
        self.chaos.note(self.name, "DEAD", why)
        self.dead = True
        self.why = why
        self.resume()
        for task in self._tasks:
            task.cancel()
        self.ended.set()
        self._fall_silent(lambda: True)

    def _fall_silent(self, still: Callable[[], bool]) -> None:
        for tell in self.on_silence:
            tell(still)

    async def gone(self) -> None:
        """Wait until no task of this life runs."""
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _points() -> tuple[str, ...]:
    folds = ("job_fold", "response_fold")
    shells = [f"{fold}.{place}" for fold in folds for place in (
        "fetch", "publish", "published", "changelog", "changelog.acked", "changelog.read", "rows.written",
        "recover")]  # fmt: skip
    workers = [f"{worker}.{place}" for worker in ("submitter", "poller") for place in (
        "join", "take", "commit", "committed", "publish", "published")]  # fmt: skip
    return (
        *shells, *workers, "submitter.read_back",
        "worker.join", "worker.commit", "worker.committed",
        "intake.fetch", "intake.publish", "intake.published", "job_timers.publish", "job_timers.published",
        "response_timers.publish", "response_timers.published",
        "results.init", "results.fence", "results.tail", "results.send", "results.sent",
        "create.send", "create.answer", "poll.send", "poll.answer", "cancel.send", "cancel.answer",
    )  # fmt: skip


CRASH_POINTS = _points()
"""Every place at which a worker awaits IO. A run must kill a worker at each."""
