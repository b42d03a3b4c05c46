"""How long responses run, by class, learned from those that were seen. Pure: no clock, no IO.

For callers, the whole interface:

    latencies = Latencies()
    latencies.began(response_id, latency_class(model, effort, request_bytes), accepted_at_ms, now_ms)
    latencies.ended(response_id, run_ms, now_ms)    # by the provider's clock: completed_at - created_at
    latencies.left(response_id, age_ms, now_ms)     # cancelled or expired: the age at which it was last known to run
    latencies.curve(a_class, now_ms)                # Kaplan-Meier, unsmoothed: for quantiles of hedges
    latencies.learned(a_class, now_ms)              # the curve with its parents as pseudo-jobs: for schedules

`curve(...).quantile_ms(0.98)` is None while it is not known; `.ends` is the sample; `.oldest_end_ms` the longest run.

A class is a tuple: model, effort, size; each shorter prefix is its parent, and `()` is all. A response counts in each.
Counts are kept in windows of 5 min for an hour and of 1 h for a day. A curve takes the newest windows that together
hold 300 ends. A response that runs on when a window ends leaves there at its age, and enters the next at that age; so
adding windows up gives what one long window would.

Everything here may be lost: it decides when a poll is made, never whether a job ends. A refold never asks it.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import erf, log, sqrt
from typing import Any

from streams.policy.latency_counts import EDGES_MS, Counts, Curve, bucket, kaplan_meier, restored, total

LatencyClass = tuple[str, ...]
ALL: LatencyClass = ()

WINDOW_MS = 300_000
WINDOWS = 12
HOUR_MS = 3_600_000
HOURS = 24
ENDS_ENOUGH = 300
"""The newest windows that together hold so many ends make a curve."""

PARENT_JOBS = 10
"""The parent of a class takes part as so many jobs."""

ROOT_SIGMA = 1.6
ROOT_MEDIAN_MS = 60_000

CLASSES_MAX = 500
"""Classes remembered. Beyond it responses of further classes count in their parents alone. A class without a count in a
day is forgotten."""

OPEN_MAX = 100_000
"""Open responses remembered. Further ones are not counted at all, which biases nothing."""

SIZES = ((16_384, "small"), (262_144, "medium"))
"""Upper bounds of a request's bytes, and their names; beyond them it is large."""

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
CLASS_PART_CHARS_MAX = 64


def latency_class(model: str, effort: str | None, request_bytes: int) -> LatencyClass:
    """The narrowest class of a request."""
    size = next((name for most, name in SIZES if request_bytes <= most), "large")
    known = "none" if effort is None else effort if effort in EFFORTS else "other"
    return (model[:CLASS_PART_CHARS_MAX], known, size)


def levels(of: LatencyClass) -> tuple[LatencyClass, ...]:
    """The class and its parents, the narrowest first."""
    return tuple(of[:length] for length in range(len(of), -1, -1))


@lru_cache(maxsize=8)
def root_curve(median_ms: int = ROOT_MEDIAN_MS, sigma: float = ROOT_SIGMA) -> Curve:
    """What is believed before anything has ended: a wide lognormal."""
    survival = tuple(0.5 * (1 - erf(log(edge / median_ms) / (sigma * sqrt(2)))) for edge in EDGES_MS)
    return Curve(survival, 0, None)


@dataclass(frozen=True, slots=True)
class Open:
    """A response that runs, as far as is known."""

    of: LatencyClass
    accepted_at_ms: int
    """By our clock. An age is a difference of our own clock, so a skew of the provider's does not matter."""
    counted: tuple[LatencyClass, ...]
    """The classes in which it was counted."""
    entry_ms: int
    """Its age when it was first seen. An end before that was not seen from its risk on, and says nothing."""

    def age_ms(self, now_ms: int) -> int:
        return max(0, now_ms - self.accepted_at_ms)


@dataclass(slots=True)
class Windows:
    """The counts of one class in time, the newest last."""

    short: deque[Counts] = field(default_factory=lambda: deque([Counts()]))
    long: deque[Counts] = field(default_factory=lambda: deque(maxlen=HOURS))
    filling: int = 0
    """Windows of 5 min that were added to the newest window of an hour."""

    def turn(self) -> None:
        self.short.append(Counts())
        if len(self.short) <= WINDOWS:
            return
        if self.filling % WINDOWS == 0:
            self.long.append(Counts())
        self.long[-1] += self.short.popleft()
        self.filling += 1

    def newest(self) -> Iterable[Counts]:
        yield from reversed(self.short)
        yield from reversed(self.long)

    @property
    def empty(self) -> bool:
        return not any(counts.entered for counts in self.newest())


class Latencies:
    """The run times by class. Not thread-safe."""

    def __init__(self, root_median_ms: int = ROOT_MEDIAN_MS) -> None:
        self._root = root_curve(root_median_ms)
        self._windows: dict[LatencyClass, Windows] = {}
        self._open: dict[str, Open] = {}
        self._turned_at_ms: int | None = None

    def __len__(self) -> int:
        return len(self._open)

    def began(self, response_id: str, of: LatencyClass, accepted_at_ms: int, now_ms: int) -> None:
        """A response runs. It counts from its age now; again, it changes nothing."""
        self._turn(now_ms)
        if response_id in self._open or len(self._open) >= OPEN_MAX:
            return
        counted, entry_ms = tuple(each for each in levels(of) if self._has_room(each)), max(0, now_ms - accepted_at_ms)
        self._open[response_id] = Open(of, accepted_at_ms, counted, entry_ms)
        for each in counted:
            self._windows[each].short[-1].enter(entry_ms)

    def ended(self, response_id: str, run_ms: int, now_ms: int) -> None:
        """A response that began has ended. One that had ended before it was first seen is taken out of the counts."""
        self._turn(now_ms)
        known = self._open.get(response_id)
        if known is None:
            return
        if bucket(run_ms) < bucket(known.entry_ms):
            self.left(response_id, known.entry_ms, now_ms)
            return
        del self._open[response_id]
        for each in known.counted:
            self._windows[each].short[-1].end(run_ms)

    def left(self, response_id: str, age_ms: int, now_ms: int) -> None:
        """A response that began was cancelled, has expired, or is not followed here any more."""
        self._turn(now_ms)
        known = self._open.pop(response_id, None)
        if known is None:
            return
        for each in known.counted:
            self._windows[each].short[-1].leave(max(age_ms, known.entry_ms))

    def opened(self, response_id: str) -> Open | None:
        return self._open.get(response_id)

    def in_use(self) -> Counter[LatencyClass]:
        """The narrowest classes of the open responses, with their number."""
        return Counter(known.of for known in self._open.values())

    def classes(self) -> list[LatencyClass]:
        return list(self._windows)

    def curve(self, of: LatencyClass, now_ms: int) -> Curve:
        """Kaplan-Meier of the class alone, in the newest windows. Those that run now are censored at their age."""
        return self.curves([of], now_ms)[of]

    def curves(
        self, wanted: Iterable[LatencyClass], now_ms: int, ends_enough: int = ENDS_ENOUGH
    ) -> dict[LatencyClass, Curve]:
        """As `curve`, for several classes in one pass over the open responses.

        :param ends_enough: ends that the newest windows together hold, where there are so many.
        """
        self._turn(now_ms)
        return {of: kaplan_meier(counts) for of, counts in self._counts(wanted, now_ms, ends_enough).items()}

    def learned(self, of: LatencyClass, now_ms: int) -> Curve:
        """The class's curve, in which each parent takes part as `PARENT_JOBS` jobs. Defined for every age."""
        return self.learned_all([of], now_ms)[of]

    def learned_all(self, wanted: Iterable[LatencyClass], now_ms: int) -> dict[LatencyClass, Curve]:
        """As `learned`, for several classes and all their parents."""
        self._turn(now_ms)
        needed = sorted({level for of in wanted for level in levels(of)} | {ALL}, key=lambda of: (len(of), of))
        counts = self._counts(needed, now_ms)
        found: dict[LatencyClass, Curve] = {}
        for of in needed:
            parent = found[of[:-1]] if of else self._root
            found[of] = kaplan_meier(counts[of], parent, PARENT_JOBS)
        return found

    def snapshot(self, now_ms: int, ends_enough: int = ENDS_ENOUGH) -> list[dict[str, Any]]:
        """The newest counts of each class, as JSON. Open responses have left at their age."""
        self._turn(now_ms)
        counts = self._counts(list(self._windows), now_ms, ends_enough)
        return [{"class": list(of), "counts": counts[of].snapshot()} for of in sorted(counts)]

    def merge(self, snapshot: Iterable[Mapping[str, Any]], now_ms: int) -> None:
        """Add what another process counted."""
        self._turn(now_ms)
        for each in snapshot:
            of = tuple(each["class"])
            if self._has_room(of):
                self._windows[of].short[-1] += restored(each["counts"])

    def _counts(
        self, wanted: Iterable[LatencyClass], now_ms: int, ends_enough: int = ENDS_ENOUGH
    ) -> dict[LatencyClass, Counts]:
        found = {of: self._recent(of, ends_enough) for of in wanted}
        for (counted, number), count in self._ages(now_ms).items():
            for of in counted:
                if of in found:
                    found[of].left[number] = found[of].left.get(number, 0) + count
        return found

    def _ages(self, at_ms: int) -> Counter[tuple[tuple[LatencyClass, ...], int]]:
        """The open responses by the classes in which they count and the bucket of their age. One pass: a worker may
        have many thousands open, and its event loop stands still meanwhile.
        """
        return Counter((known.counted, bucket(at_ms - known.accepted_at_ms)) for known in self._open.values())

    def _recent(self, of: LatencyClass, ends_enough: int) -> Counts:
        windows = self._windows.get(of)
        if windows is None:
            return Counts()
        taken, ends = [], 0
        for counts in windows.newest():
            taken.append(counts)
            ends += counts.ends
            if ends >= ends_enough:
                break
        return total(taken)

    def _has_room(self, of: LatencyClass) -> bool:
        """Whether the class is counted. The class of all has always a place."""
        if of in self._windows:
            return True
        if of and len(self._windows) >= CLASSES_MAX:
            return False
        self._windows[of] = Windows()
        return True

    def _turn(self, now_ms: int) -> None:
        """Begin a new window where the newest is full. A gap turns all of them."""
        if self._turned_at_ms is None:
            self._turned_at_ms = now_ms
        for _ in range(min((now_ms - self._turned_at_ms) // WINDOW_MS, WINDOWS * (HOURS + 1))):
            self._turned_at_ms += WINDOW_MS
            self._pass_on(self._turned_at_ms)
        if now_ms - self._turned_at_ms >= WINDOW_MS:
            self._turned_at_ms = now_ms

    def _pass_on(self, at_ms: int) -> None:
        """Open responses leave the old windows and enter the new ones at the same age."""
        ages = self._ages(at_ms)
        for (counted, number), count in ages.items():
            for of in counted:
                left = self._windows[of].short[-1].left
                left[number] = left.get(number, 0) + count
        for windows in self._windows.values():
            windows.turn()
        for (counted, number), count in ages.items():
            for of in counted:
                entered = self._windows[of].short[-1].entered
                entered[number] = entered.get(number, 0) + count
        for of in [of for of, windows in self._windows.items() if windows.empty]:
            del self._windows[of]
