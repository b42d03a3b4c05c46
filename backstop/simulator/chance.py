"""Decides which fault strikes a call, by seeded draws and by aims.

A draw depends on the seed and its purpose (job, attempt, number of the call), never on the order of arrival, so a run
under load is repeatable.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from statistics import NormalDist
from typing import Any, Final

from backstop.simulator.catalogue import FAULTS, ArmedFault, Directive, Place, make_fault, parse_rate
from backstop.simulator.config import Distribution, Profile
from backstop.simulator.errors import ConfigError

_NORMAL: Final = NormalDist()
AIMS_MAX: Final = 10_000
# Drawn by name, once per response: at acceptance, or at the first poll after one that showed it as running or ended.
APART: Final = frozenset({"poll_404_at_first", "poll_404_passing", "poll_regress"})


class Chance:
    """Uniform numbers made from the seed and a key."""

    def __init__(self, seed: int) -> None:
        self._key = str(seed).encode()[:64]

    def unit(self, purpose: str, key: str) -> float:
        """A number in [0, 1), the same for the same seed, purpose and key."""
        digest = blake2b(f"{purpose}\0{key}".encode(), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "big") / 18446744073709551616.0

    def seconds(self, distribution: Distribution, purpose: str, key: str) -> float:
        """Simulated seconds drawn from `distribution`."""
        if distribution.kind == "fixed":
            return distribution.s
        draw = self.unit(purpose, key)
        if distribution.kind == "uniform":
            return distribution.low_s + draw * (distribution.high_s - distribution.low_s)
        draw = min(max(draw, 1e-12), 1 - 1e-12)
        return distribution.median_s * math.exp(distribution.sigma * _NORMAL.inv_cdf(draw))


@dataclass(frozen=True, slots=True)
class FaultTarget:
    """The subject of a call, as far as its metadata and path say."""

    job: str | None = None
    attempt: str | None = None
    response: str | None = None


@dataclass(slots=True)
class Aim:
    """A fault kept for calls that match; None matches anything."""

    id: int
    fault: ArmedFault
    job: str | None
    attempt: str | None
    response: str | None
    nth: int
    times: int
    seen: int = 0
    hits: int = 0

    def strikes(self, target: FaultTarget) -> bool:
        """Whether it strikes this call; counts it."""
        if self.job not in (None, target.job) or self.attempt not in (None, target.attempt):
            return False
        if self.response not in (None, target.response) or (self.times and self.hits >= self.times):
            return False
        self.seen += 1
        if self.seen < self.nth:
            return False
        self.hits += 1
        return True

    @property
    def spent(self) -> bool:
        """Whether it can never strike again."""
        return bool(self.times) and self.hits >= self.times

    def shown(self) -> dict[str, Any]:
        """For the control that lists aims."""
        return {
            "aim": self.id,
            "fault": self.fault.name,
            "arg": self.fault.arg,
            "job": self.job,
            "attempt": self.attempt,
            "response": self.response,
            "nth": self.nth,
            "times": self.times,
            "seen": self.seen,
            "hits": self.hits,
        }


@dataclass(slots=True)
class _Aims:
    """The aims of one place, indexed by job."""

    general: list[Aim] = field(default_factory=list)
    by_job: dict[str, list[Aim]] = field(default_factory=dict)

    def add(self, aim: Aim) -> None:
        (self.general if aim.job is None else self.by_job.setdefault(aim.job, [])).append(aim)

    def strike(self, name: str | None, target: FaultTarget) -> ArmedFault | None:
        if not self.general and not self.by_job:
            return None
        own = self.by_job.get(target.job, []) if target.job is not None else []
        for aims in (own, self.general):
            for aim in aims:
                wanted = aim.fault.name not in APART if name is None else aim.fault.name == name
                if wanted and aim.strikes(target):
                    if aim.spent:
                        aims.remove(aim)
                    return aim.fault
        return None


class Faults:
    """Decides which fault strikes: an aim first, then a directive, then the rates."""

    def __init__(self, profile: Profile, chance: Chance) -> None:
        self._chance = chance
        self._aims: dict[Place, _Aims] = {place: _Aims() for place in FAULTS.values()}
        self._all: list[Aim] = []
        self._ids = itertools.count(1)
        self.use(profile)

    def use(self, profile: Profile) -> None:
        """Take the rates of `profile` from now on."""
        tables: dict[Place, list[tuple[ArmedFault, float]]] = {place: [] for place in FAULTS.values()}
        self._by_name: dict[str, list[tuple[ArmedFault, float]]] = {}
        for text, rate in profile.rates.items():
            fault, place = parse_rate(text)
            if rate > 0:
                self._by_name.setdefault(fault.name, []).append((fault, rate))
            if rate > 0 and fault.name not in APART:
                tables[place].append((fault, rate))
        self._sums: dict[Place, list[float]] = {
            place: list(itertools.accumulate(rate for _, rate in table)) for place, table in tables.items()
        }
        self._faults: dict[Place, list[ArmedFault]] = {
            place: [fault for fault, _ in table] for place, table in tables.items()
        }

    def one(
        self, place: Place, target: FaultTarget, key: str, directives: Iterable[Directive], nth: int
    ) -> ArmedFault | None:
        """The one fault that strikes the `nth` call of its kind about `target` at `place`, if any."""
        aimed = self._aims[place].strike(None, target)
        if aimed is not None:
            return aimed
        # By default a fault strikes each call of a create, but only the first poll, stream or cancel.
        default_times = 1 if place in ("poll", "stream", "cancel") else 0
        for directive in directives:
            times = default_times if directive.times is None else directive.times
            name = directive.fault.name
            if directive.place == place and name not in APART and _in_force(directive, target, nth, times):
                return directive.fault
        sums = self._sums[place]
        if not sums:
            return None
        index = bisect_right(sums, self._chance.unit(place, key))
        return self._faults[place][index] if index < len(sums) else None

    def named(self, name: str, target: FaultTarget, key: str, directives: Iterable[Directive]) -> ArmedFault | None:
        """The fault `name` if it strikes. For faults that are independent of each other."""
        aimed = self._aims[FAULTS[name]].strike(name, target)
        if aimed is not None:
            return aimed
        for directive in directives:
            if directive.fault.name == name and _in_force(directive, target, 1, 0):
                return directive.fault
        if name not in self._by_name:
            return None
        draw = self._chance.unit(name, key)
        for fault, rate in self._by_name[name]:
            if draw < rate:
                return fault
            draw -= rate
        return None

    def aim(self, request: AimRequest) -> Aim:
        """Keep a fault for later calls; ConfigError if it is unknown or there are too many."""
        self._all = [aim for aim in self._all if not aim.spent] if len(self._all) >= AIMS_MAX else self._all
        if len(self._all) >= AIMS_MAX:
            raise ConfigError(f"more than {AIMS_MAX} aims are open; DELETE /sim/aim clears them")
        fault = make_fault(request.fault, request.arg)
        aim = Aim(
            id=next(self._ids),
            fault=fault,
            job=request.job,
            attempt=request.attempt,
            response=request.response,
            nth=request.nth,
            times=request.times,
        )
        self._all.append(aim)
        self._aims[FAULTS[fault.name]].add(aim)
        return aim

    def aims(self) -> list[dict[str, Any]]:
        """All aims, with how often each has struck."""
        return [aim.shown() for aim in self._all]

    def clear_aims(self) -> None:
        """Drop all aims."""
        self._all.clear()
        for aims in self._aims.values():
            aims.general.clear()
            aims.by_job.clear()


@dataclass(frozen=True, slots=True)
class AimRequest:
    """The body of `POST /sim/aim`."""

    fault: str
    arg: str | None = None
    job: str | None = None
    attempt: str | None = None
    response: str | None = None
    nth: int = 1
    times: int = 1

    def __post_init__(self) -> None:
        if self.nth < 1 or self.times < 0:
            raise ConfigError("nth must be >= 1 and times >= 0")


def _in_force(directive: Directive, target: FaultTarget, nth: int, times: int) -> bool:
    return directive.attempt in (None, target.attempt) and (times == 0 or nth <= times)
