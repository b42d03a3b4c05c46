"""Which job goes next on each lane, and when. Pure: time and events are handed in (ARCHITECTURE.md, "When may a job
begin?").

Rules, before the code:
- A lane is limited in requests and tokens a minute, tokens a day and attempts in flight; so is each tenant on it. A job
  goes when both its tenant and its lane have room for what it is expected to be charged.
- Classes (interactive, normal, bulk) have turns by weight while they wait, and tenants within a class as well. Unused
  turns go to those that wait, and to be idle earns none.
- A tenant of a class that uses less than its fair share (`standing.py`) goes before those that use more, and has room
  for what it would have room for without them. So has an interactive job, beside all others.
- The job whose turn it is waits until there is room for it. A smaller one does not overtake it.
- A job that can't end before its deadline any more (less time than 9 of 10 runs of its model take) is not begun.
- An attempt holds what it reserved until it is refused or ends; then it is given back, once.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from schemas.base import Priority
from streams.policy.lane_queue import WHY_OF_TENANT, LaneQueue, Rank, ReservedAttempt, Why
from streams.policy.limiter import Limiter
from streams.policy.limits import LimitRules
from streams.policy.rates import NO_RATES, LimitsTold, NotNow
from streams.policy.run_times import RunTimes
from streams.policy.sizes import Asked, Sizes
from streams.policy.tiers import Standing
from streams.policy.waiting import Place, Waiter

USED_MAX = 2_000_000.0
"""Tokens that one attempt counts for at most, in limits and turns: a usage that is far too high must not use up a day.
"""

LANES_MAX = 1_000
"""Lanes kept of which no job waits or runs. Beyond it one that was served nothing is forgotten, then the one that was
used longest ago.
"""
TENANTS_MAX = 20_000
"""The same for the tenants with limits of their own on one lane."""
ASK_AGAIN_MS = 250
"""Where only the end of another attempt lets a job go: the lane is asked again at this interval at the latest."""

PARKED_MS_MAX = 1_000
"""A tenant at a limit of its own is looked at again at this interval: its share may have grown."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The job may begin its attempt. `tokens`: expected, and reserved."""

    waiter: Waiter
    tokens: float
    waited_for: Why = "turn"


@dataclass(frozen=True, slots=True)
class TooLate:
    """The job can't end before its deadline any more."""

    waiter: Waiter
    needs_ms: int


@dataclass(frozen=True, slots=True)
class Gone:
    """The job whose turn it was no longer waits, and has left the queue."""


@dataclass(frozen=True, slots=True)
class NotYet:
    """No job of the lane may begin before `ms` have passed."""

    why: Why
    ms: int


class Admission:
    """The queues and limits of one worker."""

    def __init__(self, rules: LimitRules, account: str) -> None:
        self._rules = rules
        self._account = account
        self._lanes: dict[str, LaneQueue] = {}
        self._waiters: dict[int, dict[bytes, Waiter]] = {}
        self._held: dict[int, dict[bytes, ReservedAttempt]] = {}
        self._base = 1.0
        self.joined: Callable[[str, str | None, Limiter, int], None] = lambda *_: None
        """Called with the model and tenant (None: of the lane) of each new limiter, and the time."""
        self.sizes = Sizes()
        self.run_times = RunTimes()

    def put(self, waiter: Waiter, now_ms: int) -> None:
        """The job waits from now on. One that already waits keeps its place."""
        if self.waits((waiter.partition, waiter.key)):
            return
        self.ended((waiter.partition, waiter.key), None, now_ms)
        asked, lane = waiter.asked, self._lane(waiter.asked.model, now_ms)
        self._waiters.setdefault(waiter.partition, {})[waiter.key] = waiter
        lane_ms = self._lane_ms(lane, asked.model, self.sizes.estimate(asked).tokens)
        lane.put(waiter, self._rules.weight(asked.tenant), lane_ms, now_ms)

    def waits(self, place: Place) -> bool:
        return place[1] in self._waiters.get(place[0], ())

    def drop(self, place: Place) -> None:
        """The job no longer waits."""
        waiter = self._waiters.get(place[0], {}).pop(place[1], None)
        if waiter is not None:
            self._lanes[waiter.asked.model].remove(waiter)

    def changed(self, place: Place, priority: Priority, deadline_ms: int) -> None:
        """The job may have another priority or deadline. With another priority it leaves the queue, to join anew."""
        waiter = self._waiters.get(place[0], {}).get(place[1])
        if waiter is None:
            return
        if waiter.priority != priority:
            self.drop(place)
        elif waiter.deadline_ms != deadline_ms:
            self._lanes[waiter.asked.model].queue((priority, waiter.asked.tenant)).moved(waiter, deadline_ms)

    def next(
        self, model: str, now_ms: int, gate: Callable[[str], int] = lambda _: 0,
        waits: Callable[[Place], bool] = lambda _: True,
    ) -> Grant | TooLate | Gone | NotYet | None:  # fmt: skip
        """The next job of the lane that may begin now, or why none may; None if none waits.

        :param gate: asked last, where a job would begin: 0 if the lane takes a create, else the milliseconds to wait.
        :param waits: whether the job that would be next still waits. Asked once at most, as it reads a row.
        """
        lane = self._lanes.get(model)
        if lane is None or not lane.waiting:
            return None
        lane.unpark(self._rules.weight, now_ms)
        for rank in lane.ranks:
            turn = self._next_of(lane, rank, model, now_ms, gate, waits)
            if turn is not None:
                return turn
        until_ms = lane.parked_until_ms()
        return None if until_ms is None else NotYet(lane.why, max(1, until_ms - now_ms))

    def _next_of(
        self, lane: LaneQueue, rank: Rank, model: str, now_ms: int, gate: Callable[[str], int],
        waits: Callable[[Place], bool],
    ) -> Grant | TooLate | Gone | NotYet | None:  # fmt: skip
        while (priority := rank.first()) is not None:
            group, standing = rank.classes[priority], rank.standing(priority)
            tenant = group.tenants.first()
            if tenant is None:
                rank.turns.leave(priority)  # All its tenants are parked.
                continue
            waiter = group.queues[tenant].first(now_ms, self.run_times.median_ms(model))
            if waiter is None:
                lane.left((priority, tenant))
                continue
            needs_ms, place = self.run_times.least_ms(model), (waiter.partition, waiter.key)
            if not waiter.retry and waiter.deadline_ms - now_ms < needs_ms:
                self.drop(place)
                return TooLate(waiter, needs_ms) if waits(place) else Gone()
            tokens = self.sizes.estimate(waiter.asked).tokens
            own = self._of_tenant(lane, waiter.asked, now_ms)
            wait = own.wait(tokens, now_ms) if own is not None else None
            if own is not None and wait is not None:
                lane.why, waiter.delayed = WHY_OF_TENANT[wait.reason], True
                own.short(wait, now_ms)
                group.park(tenant, now_ms + min(_ms(wait), PARKED_MS_MAX))
                continue
            wait = lane.limiter.wait(tokens, now_ms, standing)
            if wait is not None:
                lane.why, waiter.delayed = wait.reason, True
                lane.limiter.short(wait, now_ms)
                return NotYet(wait.reason, _ms(wait))
            if not waits(place):
                self.drop(place)
                return Gone()
            return self._grant(lane, waiter, tokens, standing, now_ms, gate(model))
        return None

    def began(
        self, place: Place, asked: Asked, priority: Priority, now_ms: int, *, accepted_at_ms: int = 0
    ) -> None:  # fmt: skip
        """An attempt began without a grant from here: an older fact, a stamp, or a grant of a former owner.

        It counts against the limits all the same, which may leave a debt. `accepted_at_ms`: it runs already, and only
        counts as in flight.
        """
        self.drop(place)
        if place[1] in self._held.get(place[0], ()):
            return
        lane, tokens = self._lane(asked.model, now_ms), self.sizes.estimate(asked).tokens
        if accepted_at_ms:
            for limiter in self._limiters(lane, asked, now_ms):
                limiter.runs(tokens, now_ms, place[0])
            held = ReservedAttempt(asked, priority, 0.0, answered=True, accepted_at_ms=accepted_at_ms, of_day=tokens)
            self._hold(place, held)
            return
        weight = self._rules.weight(asked.tenant)
        lane_ms = self._lane_ms(lane, asked.model, tokens)
        standing = lane.standing((priority, asked.tenant), weight, lane_ms, 1, now_ms)
        self._reserve(lane, place, ReservedAttempt(asked, priority, tokens, standing, lane_ms), now_ms)

    def may_spend(self, asked: Asked, now_ms: int) -> Why | None:
        """Whether an attempt that waits for no turn, such as a hedge, may begin now: None, or what it is short of.

        It goes after the jobs that wait, and leaves room to those within their shares. Nothing is reserved: `began`
        counts it. Pauses and budgets hold its create at the submitter, as any other.
        """
        lane, tokens = self._lane(asked.model, now_ms), self.sizes.estimate(asked).tokens
        if lane.waiting:
            return "turn"
        own = self._of_tenant(lane, asked, now_ms)
        if own is not None and (short := own.wait(tokens, now_ms)) is not None:
            return WHY_OF_TENANT[short.reason]
        wait = lane.limiter.wait(tokens, now_ms, "beyond")
        return None if wait is None else wait.reason

    def room(self, asked: Asked, now_ms: int) -> bool:
        """Whether one more attempt could begin now, and takes the turn of none that waits."""
        return self.may_spend(asked, now_ms) is None

    def accepted(self, place: Place, now_ms: int, told: LimitsTold | None = None, age_ms: int = 0) -> None:
        """The create was accepted. `told`: what its answer told of the limits, `age_ms` ago."""
        held = self._held.get(place[0], {}).get(place[1])
        if held is None or held.answered:
            return
        held.answered, held.accepted_at_ms = True, now_ms
        lane = self._lanes[held.asked.model]
        lane.limiter.answered(held.tokens, now_ms)
        own = lane.tenants.get(held.asked.tenant)
        if own is not None:
            own.answered(held.tokens, now_ms)
        lane.limiter.told(told, now_ms, age_ms=age_ms)

    def refused(
        self, place: Place, now_ms: int, told: LimitsTold | None = None, age_ms: int = 0, *, limited: bool = False,
        told_ms: int = 0,
    ) -> None:  # fmt: skip
        """The create was refused, or never sent: what it reserved is given back. `told`: as in `accepted`."""
        held = self._take_held(place)
        if held is None:
            return
        lane = self._lanes[held.asked.model]
        own = lane.tenants.get(held.asked.tenant)
        if held.answered:
            self._end(lane, own, held, None, place[0])
            return
        lane.limiter.refused(held.tokens, now_ms, held.standing, place[0], limited=limited, told_ms=told_ms)
        if own is not None:
            own.refused(held.tokens, now_ms, "within", place[0], limited=False, told_ms=0)
        lane.corrected(held, 0.0, 0.0)
        if limited:
            lane.limiter.told(told, now_ms, age_ms=age_ms)

    def ended(self, place: Place, usage: tuple[int, int] | None, now_ms: int, *, ran: bool = False) -> None:
        """The attempt is over. `usage`: its input and output tokens; None if they are not known.

        `ran`: it ran to its end, so that its time counts as a run time.
        """
        held = self._take_held(place)
        if held is None:
            return
        lane = self._lanes[held.asked.model]
        own = lane.tenants.get(held.asked.tenant)
        if not held.answered:
            lane.limiter.answered(held.tokens, now_ms)
            if own is not None:
                own.answered(held.tokens, now_ms)
        used = None if usage is None else min(float(sum(usage)), USED_MAX)
        self._end(lane, own, held, used, place[0])
        if usage is None or used is None:
            return
        self.sizes.learn(held.asked, *usage)
        if ran and held.accepted_at_ms:
            self.run_times.learn(held.asked.model, now_ms - held.accepted_at_ms)
        if held.tokens:
            lane.limiter.correct(held.tokens, used, held.standing)
            if own is not None:
                own.correct(held.tokens, used)
            run_ms = now_ms - held.accepted_at_ms if held.accepted_at_ms else 0
            lane.corrected(held, used, lane.limiter.lane_ms(used, run_ms))

    def own(self, partitions: Collection[int], base: float, now_ms: int) -> None:
        """Forget the jobs of all partitions but these. `base`: this worker's part of all partitions."""
        self._base = base
        for partition in self._waiters.keys() - set(partitions):
            for key in list(self._waiters[partition]):
                self.drop((partition, key))
            del self._waiters[partition]
        for partition in self._held.keys() - set(partitions):
            for key in list(self._held[partition]):
                self.ended((partition, key), None, now_ms)
            del self._held[partition]
        for lane in self._lanes.values():
            for limiter in (lane.limiter, *lane.tenants.values()):
                limiter.shared(base, now_ms)

    @property
    def limited(self) -> bool:
        """Whether any rule is set."""
        return bool(self._rules.rules)

    def waiting(self, model: str) -> int:
        lane = self._lanes.get(model)
        return 0 if lane is None else lane.waiting

    def limiters(self, model: str) -> Iterator[tuple[str | None, Limiter]]:
        """Of the lane, and of its tenants with limits of their own. None yet if no job of the lane came."""
        lane = self._lanes.get(model)
        if lane is not None:
            yield None, lane.limiter
            yield from lane.tenants.items()

    def lanes(self) -> Collection[str]:
        """Lanes of jobs that wait or run, or did."""
        return self._lanes.keys()

    def models(self) -> Iterator[str]:
        """Lanes with jobs that wait."""
        return (model for model, lane in self._lanes.items() if lane.waiting)

    def __len__(self) -> int:
        return sum(map(len, self._waiters.values()))

    def _grant(
        self, lane: LaneQueue, waiter: Waiter, tokens: float, standing: Standing, now_ms: int, closed_ms: int
    ) -> Grant | NotYet:  # fmt: skip
        if closed_ms:
            lane.why, waiter.delayed = "lane", True
            return NotYet("lane", closed_ms)
        place = (waiter.partition, waiter.key)
        self.drop(place)
        lane_ms = self._lane_ms(lane, waiter.asked.model, tokens)
        self._reserve(lane, place, ReservedAttempt(waiter.asked, waiter.priority, tokens, standing, lane_ms), now_ms)
        return Grant(waiter, tokens, lane.why if waiter.delayed else "turn")

    @staticmethod
    def _end(lane: LaneQueue, own: Limiter | None, held: ReservedAttempt, used: float | None, partition: int) -> None:
        of_day = held.tokens if held.of_day is None else held.of_day
        lane.limiter.ended(of_day, used, partition)
        if own is not None:
            own.ended(of_day, used, partition)

    def _reserve(self, lane: LaneQueue, place: Place, held: ReservedAttempt, now_ms: int) -> None:
        tokens, tenant = held.tokens, held.asked.tenant
        lane.limiter.take(tokens, now_ms, held.standing, place[0])
        own = self._of_tenant(lane, held.asked, now_ms)
        if own is not None:
            own.take(tokens, now_ms, "within", place[0])
        self._hold(place, held)
        lane.served((held.priority, tenant), tokens, held.standing)
        lane.used(held, self._rules.weight(tenant), now_ms)

    def _lane_ms(self, lane: LaneQueue, model: str, tokens: float) -> float | None:
        return lane.limiter.lane_ms(tokens, self.run_times.median_ms(model))

    def _hold(self, place: Place, held: ReservedAttempt) -> None:
        self._held.setdefault(place[0], {})[place[1]] = held

    def _take_held(self, place: Place) -> ReservedAttempt | None:
        return self._held.get(place[0], {}).pop(place[1], None)

    def _of_tenant(self, lane: LaneQueue, asked: Asked, now_ms: int) -> Limiter | None:
        """The tenant's limiter; None if it has no limits of its own."""
        limiter = lane.tenants.get(asked.tenant)
        if limiter is None:
            rates = self._rules.tenant(self._account, asked.model, asked.tenant)
            if rates == NO_RATES:
                return None
            if len(lane.tenants) >= TENANTS_MAX:
                lane.forget_idle_tenant()
            limiter = lane.tenants[asked.tenant] = Limiter(rates, now_ms, self._base)
            self.joined(asked.model, asked.tenant, limiter, now_ms)
        return limiter

    def _limiters(self, lane: LaneQueue, asked: Asked, now_ms: int) -> Iterator[Limiter]:
        yield lane.limiter
        own = self._of_tenant(lane, asked, now_ms)
        if own is not None:
            yield own

    def _lane(self, model: str, now_ms: int) -> LaneQueue:
        lane = self._lanes.get(model)
        if lane is None:
            if len(self._lanes) >= LANES_MAX:
                self._forget_idle()
            rates = self._rules.lane(self._account, model)
            lane = self._lanes[model] = LaneQueue(Limiter(rates, now_ms, self._base))
            self.joined(model, None, lane.limiter, now_ms)
        lane.used_ms = now_ms
        return lane

    def _forget_idle(self) -> None:
        idle = {model: each for model, each in self._lanes.items() if not each.waiting and not each.limiter.in_flight}
        if idle:
            # A misspelt model is served nothing: it goes before one whose limits would begin anew.
            del self._lanes[min(idle, key=lambda model: (idle[model].limiter.served > 0, idle[model].used_ms))]


def _ms(wait: NotNow) -> int:
    return ASK_AGAIN_MS if wait.ms is None else max(1, wait.ms)
