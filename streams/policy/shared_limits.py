"""What one worker tells the others of limits, and what it takes from them: wants, use of days, lessons. Pure.

Connects `Admission` with the rules of `lending.py` and `day_use.py` (decisions 0042 and 0043). `tell` is asked several
times a second; what it returns is to be published on `lanes`, and `take` to be called with each fact of limits of the
topic, own ones among them. A lane whose limits are not short writes nothing.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from heapq import nsmallest
from typing import Any, assert_never

from schemas.lanes import TENANTS_MAX, DayUsed, LimitFact, LimitsLearned, ShareWanted, WantedPart
from streams.policy.admission import Admission
from streams.policy.day_use import DayUse
from streams.policy.lending import LEAST_WANTED, REFRESH_MS, TOLD_FOR_MS, UNREAD_MS, LaneShares, base_share
from streams.policy.limiter import TOLD_FOR_MS as LESSON_FOR_MS
from streams.policy.limiter import Limiter
from streams.policy.limits import LimitRules
from streams.policy.rates import Lesson, LimitsTold

SHORT_FOR_MS = 1_000
"""A worker that neither lends nor borrows asks for more than its base when jobs found no room for so long."""
MARGIN = 1.25
"""What is wanted where there is room: what is used, times this."""
WRITE_GAP_MS = 300
"""The shortest time between two facts of a lane."""
MOVED = 0.15
"""A want that changed by this part of itself is written at once."""
LESSON_GAP_MS = 1_000
WRITE_ANYWAY_MS = 600_000
"""A fact that was never read back, as the topic lost it, holds up the next one for so long at most."""
LANES_MAX = 1_000
DAYS_MAX = 10_000
"""Days kept of lanes and of tenants on them. Beyond it the one that is used least is forgotten."""
LANES_TOLD_MAX = 100
"""Lanes that a worker tells its wants of at one time. On others it has its base share."""


@dataclass(slots=True)
class _Written:
    """The last `ShareWanted` of a lane, and since when it or one before it is not read back."""

    fact: ShareWanted
    at_ms: int
    unread_since_ms: int | None

    def counts(self, now_ms: int) -> bool:
        """Whether it is live, or may yet be read."""
        return now_ms - self.at_ms <= (TOLD_FOR_MS if self.unread_since_ms is None else WRITE_ANYWAY_MS)


class SharedLimits:
    def __init__(
        self, admission: Admission, rules: LimitRules, account: str, worker: str, partitions: int
    ) -> None:  # fmt: skip
        """:param worker: a name of this process that no other one has or had.
        :param partitions: of `jobs`, of all workers together.
        """
        self._admission = admission
        self._rules = rules
        self._account = account
        self._worker = worker
        self._partitions = partitions
        self._owned: frozenset[int] = frozenset()
        self._lanes: dict[str, LaneShares] = {}
        self._written: dict[str, _Written] = {}
        self._days: dict[tuple[str, str | None], DayUse] = {}
        self._lessons: dict[str, tuple[Lesson, int]] = {}
        self._taught_ms: dict[str, int] = {}
        self._number = 0
        admission.joined = self._joined

    @property
    def limited(self) -> bool:
        """Whether any rule is set. Without one there is nothing to tell."""
        return self._admission.limited

    def own(self, partitions: Collection[int]) -> None:
        """The worker owns these partitions from now on. To be called before `Admission.own`."""
        self._owned = frozenset(partitions)
        for day in self._days.values():
            day.own(self._owned, self._base)

    def take(self, fact: LimitFact, read_ms: int) -> None:
        """Take the next fact of the log, which was read at `read_ms`."""
        if fact.account != self._account:
            return
        own = fact.worker == self._worker
        match fact:
            case ShareWanted():
                if len(self._lanes) < LANES_MAX or fact.model in self._lanes:
                    lane = self._lanes.setdefault(fact.model, LaneShares(self._worker, self._partitions))
                    served = lane.take(fact, read_ms)
                    self._apply(fact.model, read_ms)
                    limiter = self._of_lane(fact.model)
                    if limiter is not None and served is not None and not own:
                        limiter.others_served(served, read_ms)
                written = self._written.get(fact.model)
                if own and written is not None and written.fact.id == fact.id:
                    written.unread_since_ms = None
            case DayUsed():
                day = self._day(fact.model, fact.tenant)
                if day is not None:
                    day.heard(fact, read_ms, own=own)
            case LimitsLearned():
                if not own:
                    self._learn(fact, read_ms)
            case _:
                assert_never(fact)

    def tell(self, now_ms: int) -> list[LimitFact]:
        """What is to be written now."""
        facts: list[LimitFact] = []
        self._written = {model: each for model, each in self._written.items() if each.counts(now_ms)}
        for model in {*self._admission.lanes(), *self._lanes}:
            wanted = self._wanted(model, now_ms)
            if wanted is not None:
                facts.append(wanted)
        for model in list(self._lanes):
            self._apply(model, now_ms)
            if self._lanes[model].forget(now_ms):
                del self._lanes[model]
        facts.extend(self._days_told(now_ms))
        facts.extend(self._lessons_told(now_ms))
        return facts

    def lost(self, fact: LimitFact) -> None:
        """A fact of `tell` could not be written."""
        written = self._written.get(fact.model)
        if written is not None and written.fact.id == fact.id:
            written.unread_since_ms = None

    # ---- shares

    def _wanted(self, model: str, now_ms: int) -> ShareWanted | None:
        limiters, written, base = list(self._admission.limiters(model)), self._written.get(model), self._base
        if written is None and len(self._written) >= LANES_TOLD_MAX:
            return None
        named = written is not None and frozenset(written.fact.partitions) != self._owned
        lane = self._lanes.get(model)
        answers = lane is not None and lane.needed_by_others(now_ms)
        telling = written is not None and now_ms - written.at_ms <= TOLD_FOR_MS
        needs = 0 < base < 1 and any(self._needs(each, telling, now_ms) for _, each in limiters)
        if not (needs or answers or named):
            return None
        if written is not None and not self._may_write(written, now_ms):
            return None
        wanted = {tenant: self._want(each, telling or answers, now_ms) for tenant, each in limiters}
        of_lane = wanted.pop(None, WantedPart(rate=math.ceil(1_000 * LEAST_WANTED * base)))
        most = sorted(wanted.items(), key=lambda each: (-each[1].rate, -each[1].held))[:TENANTS_MAX]
        fact = ShareWanted(
            **self._about(model, now_ms), partitions=tuple(sorted(self._owned)), wanted=of_lane,
            tenants={tenant: want for tenant, want in most if tenant is not None}, needs=needs,
            served=next((round(each.served) for tenant, each in limiters if tenant is None), 0),
        )  # fmt: skip
        if written is not None and not named and now_ms - written.at_ms < REFRESH_MS and not _moved(written.fact, fact):
            return None
        since_ms = now_ms if written is None or written.unread_since_ms is None else written.unread_since_ms
        self._written[model] = _Written(fact, now_ms, since_ms)
        return fact

    def _may_write(self, written: _Written, now_ms: int) -> bool:
        if now_ms - written.at_ms < WRITE_GAP_MS:
            return False
        unread_ms = 0 if written.unread_since_ms is None else now_ms - written.unread_since_ms
        return unread_ms <= UNREAD_MS or unread_ms > WRITE_ANYWAY_MS

    def _hungry(self, limiter: Limiter, telling: bool, now_ms: int) -> bool:
        short_ms = limiter.demand.short_ms(now_ms)
        return short_ms is not None and (telling or short_ms >= SHORT_FOR_MS)

    def _needs(self, limiter: Limiter, telling: bool, now_ms: int) -> bool:
        """Whether this worker needs more than its base."""
        base = base_share(self._base, limiter.rates.concurrent)
        if base.slots is not None and limiter.in_flight > base.slots:
            return True
        if self._hungry(limiter, telling, now_ms):
            return True
        return telling and MARGIN * limiter.demand.used(now_ms) > self._base

    def _want(self, limiter: Limiter, telling: bool, now_ms: int) -> WantedPart:
        hungry, concurrent = self._hungry(limiter, telling, now_ms), limiter.rates.concurrent
        rate = 1.0 if hungry else min(1.0, MARGIN * limiter.demand.used(now_ms) + LEAST_WANTED * self._base)
        if concurrent is None:
            return WantedPart(rate=math.ceil(1_000 * rate))
        slots = concurrent if hungry else min(concurrent, math.ceil(MARGIN * limiter.in_flight) + 1)
        return WantedPart(rate=math.ceil(1_000 * rate), slots=slots, held=limiter.in_flight)

    def _apply(self, model: str, now_ms: int) -> None:
        lane, limiters = self._lanes[model], dict(self._admission.limiters(model))
        named = lane.tenants(now_ms)
        told = {who: each.rates.concurrent for who, each in limiters.items() if who is None or who in named}
        shares = lane.shares(self._owned, told, now_ms)
        for tenant, limiter in limiters.items():
            limiter.lent(shares.get(tenant) or base_share(self._base, limiter.rates.concurrent), now_ms)

    # ---- days

    def _day(self, model: str, tenant: str | None) -> DayUse | None:
        day = self._days.get((model, tenant))
        if day is None:
            rules = self._rules
            rates = rules.lane(self._account, model) if tenant is None else rules.tenant(self._account, model, tenant)
            if rates.tokens_per_day is None:
                return None
            if len(self._days) >= DAYS_MAX:
                self._forget_least_used()
            day = self._days[model, tenant] = DayUse(rates.tokens_per_day, told=True)
            day.own(self._owned, self._base)
        return day

    def _forget_least_used(self) -> None:
        """A hundredth of the days, if admission has forgotten their lanes or tenants, or of all if it knows each."""
        joined = self._joined_limits()
        forgotten = [each for each in self._days if each not in joined]
        for each in nsmallest(DAYS_MAX // 100 or 1, forgotten or self._days, key=lambda each: self._days[each].used):
            del self._days[each]

    def _joined_limits(self) -> set[tuple[str, str | None]]:
        return {(model, who) for model in self._admission.lanes() for who, _ in self._admission.limiters(model)}

    def _days_told(self, now_ms: int) -> Iterator[DayUsed]:
        joined = self._joined_limits() if self._days else set()
        for (model, tenant), day in list(self._days.items()):
            told = day.to_tell(now_ms)
            if told is None:
                # Names of models and tenants are foreign: a misspelt one leaves nothing behind.
                if day.unused and (model, tenant) not in joined:
                    del self._days[model, tenant]
            else:
                number, used, reserved = told
                yield DayUsed(
                    **self._about(model, now_ms), tenant=tenant, day=number, used=used, reserved=reserved
                )  # fmt: skip

    # ---- lessons

    def _lessons_told(self, now_ms: int) -> Iterator[LimitsLearned]:
        self._taught_ms = {model: ms for model, ms in self._taught_ms.items() if now_ms - ms < LESSON_GAP_MS}
        for model in self._admission.lanes():
            limiter = self._of_lane(model)
            if limiter is None or model in self._taught_ms:
                continue
            lesson = limiter.lesson()
            if lesson is not None:
                self._taught_ms[model] = now_ms
                yield LimitsLearned(
                    **self._about(model, now_ms), requests_per_min=_whole(lesson.told.requests_per_min),
                    tokens_per_min=_whole(lesson.told.tokens_per_min), found=_whole(lesson.found),
                    ceiling=_whole(lesson.ceiling), told_ms=lesson.told_ms,
                )  # fmt: skip

    def _learn(self, fact: LimitsLearned, read_ms: int) -> None:
        told = LimitsTold(fact.requests_per_min, fact.tokens_per_min)
        lesson = Lesson(told, fact.found, fact.ceiling, fact.told_ms)
        at_ms = min(read_ms, fact.at_ms)
        self._lessons.pop(fact.model, None)
        self._lessons[fact.model] = lesson, at_ms
        if len(self._lessons) > LANES_MAX:
            del self._lessons[next(iter(self._lessons))]
        limiter = self._of_lane(fact.model)
        if limiter is not None:
            limiter.learned(lesson, read_ms)

    # ---- both

    def _of_lane(self, model: str) -> Limiter | None:
        return next((limiter for tenant, limiter in self._admission.limiters(model) if tenant is None), None)

    def _joined(self, model: str, tenant: str | None, limiter: Limiter, now_ms: int) -> None:
        """A lane or tenant has its first job, or its first one for long."""
        limiter.day = self._day(model, tenant)
        lane = self._lanes.get(model)
        if lane is not None:
            limiter.lent(lane.share(self._owned, tenant, limiter.rates.concurrent, now_ms), now_ms)
        known = self._lessons.get(model)
        if tenant is None and known is not None and now_ms - known[1] < LESSON_FOR_MS:
            lesson, at_ms = known
            limiter.learned(replace(lesson, told_ms=max(0, lesson.told_ms - (now_ms - at_ms))), now_ms)

    @property
    def _base(self) -> float:
        return len(self._owned) / self._partitions

    def _about(self, model: str, now_ms: int) -> dict[str, Any]:
        self._number += 1
        return {
            "id": f"{self._worker}/limits/{self._number}", "at_ms": now_ms, "account": self._account, "model": model,
            "worker": self._worker,
        }  # fmt: skip


def _whole(limit: float | None) -> int | None:
    return None if limit is None else max(1, round(limit))


def _moved(before: ShareWanted, after: ShareWanted) -> bool:
    """Whether what is wanted changed so much that others must know at once."""
    if before.needs != after.needs:
        return True
    nothing = WantedPart(rate=0)
    pairs = [(before.wanted, after.wanted)]
    pairs += [
        (before.tenants.get(tenant, nothing), after.tenants.get(tenant, nothing))
        for tenant in before.tenants.keys() | after.tenants.keys()
    ]
    return any(
        abs(new.rate - old.rate) > max(10, MOVED * old.rate)
        or abs(new.slots - old.slots) > max(0, old.slots // 50)
        or abs(new.held - old.held) > max(0, old.held // 50)
        for old, new in pairs
    )
