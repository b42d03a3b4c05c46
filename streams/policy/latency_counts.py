"""Run times as integer counts in logarithmic buckets, and the Kaplan-Meier curve of them. Pure.

A run time is in bucket `i` if it is at most `EDGES_MS[i]` and above the edge before. The edges grow by 2 %, from 0.5 s
to 4 h, so a quantile is wrong by 1 % at most. Counts are added in any order and merged by addition.

A response is counted when it is first seen (*entered*, at its age then) and once more when it ends (*ended*, at its run
time) or is seen no longer (*left*, at its age then). The curve divides the ends in a bucket by the responses that were
at risk there. So responses that still run, that were cancelled, or that were open before the counts began give what is
known of them, and no more.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import ceil, log
from typing import Final, Self

ACCURACY: Final = 0.01
GROWTH: Final = (1 + ACCURACY) / (1 - ACCURACY)
LEAST_MS: Final = 500
MOST_MS: Final = 4 * 3_600_000
BUCKETS: Final = ceil(log(MOST_MS / LEAST_MS) / log(GROWTH)) + 1
EDGES_MS: Final = tuple(LEAST_MS * GROWTH**number for number in range(BUCKETS))
"""The upper edges of the buckets."""
_PER_LOG: Final = 1 / log(GROWTH)


def bucket(run_ms: float) -> int:
    """The bucket of a run time or an age. What is beyond either end is in the bucket at that end."""
    if run_ms <= LEAST_MS:
        return 0
    return min(ceil(log(run_ms / LEAST_MS) * _PER_LOG - 1e-9), BUCKETS - 1)


def value_ms(number: int) -> float:
    """The run time that stands for a bucket: within 1 % of each in it."""
    return EDGES_MS[number] * 2 / (GROWTH + 1)


@dataclass(slots=True)
class Counts:
    """How many responses entered, ended and left in each bucket. `+=` merges."""

    entered: dict[int, int] = field(default_factory=dict)
    ended: dict[int, int] = field(default_factory=dict)
    left: dict[int, int] = field(default_factory=dict)
    ends: int = 0
    """The sum of `ended`."""

    def enter(self, age_ms: float = 0) -> None:
        """A response is observed from this age on."""
        _add(self.entered, bucket(age_ms))

    def end(self, run_ms: float) -> None:
        """A response that entered ended after this run time."""
        _add(self.ended, bucket(run_ms))
        self.ends += 1

    def leave(self, age_ms: float) -> None:
        """A response that entered was last known to run at this age: it still runs, or was cancelled, or expired."""
        _add(self.left, bucket(age_ms))

    def __iadd__(self, other: "Counts") -> Self:
        for mine, theirs in (
            (self.entered, other.entered),
            (self.ended, other.ended),
            (self.left, other.left),
        ):
            for number, count in theirs.items():
                mine[number] = mine.get(number, 0) + count
        self.ends += other.ends
        return self

    def snapshot(self) -> dict[str, dict[str, int]]:
        """The counts as a JSON object; `restored` reads it."""
        named = (("entered", self.entered), ("ended", self.ended), ("left", self.left))
        return {name: {str(number): counts[number] for number in sorted(counts)} for name, counts in named}


def restored(snapshot: Mapping[str, Mapping[str, int]]) -> Counts:
    """:raises ValueError: a bucket or a count is out of range."""
    counts = Counts()
    for name, into in (("entered", counts.entered), ("ended", counts.ended), ("left", counts.left)):
        for number, count in snapshot.get(name, {}).items():
            if not 0 <= int(number) < BUCKETS or count < 0:
                raise ValueError(f"latency snapshot: {name} has {count} in bucket {number}")
            into[int(number)] = count
    counts.ends = sum(counts.ended.values())
    return counts


def _add(counts: dict[int, int], number: int) -> None:
    counts[number] = counts.get(number, 0) + 1


@dataclass(frozen=True, slots=True)
class Curve:
    """How many of the responses still run, by age. `survival[i]` is the share at the end of bucket `i`."""

    survival: Sequence[float]
    ends: int
    """The number of ends that the curve was made of, without pseudo-jobs."""
    oldest_end_ms: float | None
    """The greatest run time among these ends; None without any."""
    oldest_seen_ms: float = 0.0
    """The greatest run time or age of all responses: what is beyond it is not known."""

    def running(self, age_ms: float) -> float:
        """The share that runs longer than this age."""
        return self.survival[bucket(age_ms)]

    def quantile_ms(self, share: float) -> float | None:
        """The run time that this share of responses does not exceed.

        None if it is not known: too many of the responses have not ended yet.
        """
        rest = 1.0 - share + 1e-12
        for number, left in enumerate(self.survival):
            if left <= rest:
                return value_ms(number)
        return None

    def masses(self) -> list[float]:
        """The share that ends in each bucket. The last bucket has what is left."""
        before, found = 1.0, []
        for left in self.survival:
            found.append(before - left)
            before = left
        found[-1] += before
        return found


def kaplan_meier(counts: Counts, prior: Curve | None = None, prior_jobs: float = 0.0) -> Curve:
    """The curve of the counts. `prior` takes part as so many jobs that ran by it."""
    entered, ended, left = (_dense(each) for each in (counts.entered, counts.ended, counts.left))
    # A response that leaves is not at risk in its bucket; a response that ends is.
    at_risk = accumulate(
        come - gone - over for come, gone, over in zip(entered, left, (0, *ended[:-1]), strict=True)
    )  # fmt: skip
    survival, running, prior_before = [], 1.0, prior_jobs
    for number, (risk, ends) in enumerate(zip(at_risk, ended, strict=True)):
        prior_after = prior_jobs * prior.survival[number] if prior is not None else 0.0
        of = max(risk, ends) + prior_before
        if of > 0:
            running *= 1.0 - (ends + prior_before - prior_after) / of
        survival.append(max(0.0, running))
        prior_before = prior_after
    oldest = max(counts.ended, default=None)
    seen = max((*counts.ended, *counts.left), default=None)
    return Curve(
        tuple(survival), counts.ends, None if oldest is None else value_ms(oldest),
        0.0 if seen is None else value_ms(seen),
    )  # fmt: skip


def _dense(counts: Mapping[int, int]) -> list[int]:
    found = [0] * BUCKETS
    for number, count in counts.items():
        found[number] = count
    return found


def smoothed(masses: Sequence[float], width: float) -> list[float]:
    """The masses under a kernel that is nearly normal, of this width in ln(age). What would leave at an end stays.

    Three running means: the sum of three uniform draws is close to a normal one, and costs a few additions a bucket.
    """
    reach = max(1, round((4 * (width * _PER_LOG) ** 2 + 1) ** 0.5) // 2)
    padded = [0.0] * (3 * reach) + list(masses) + [0.0] * (3 * reach)
    for _ in range(3):
        padded = _running_mean(padded, reach)
    body = padded[3 * reach : 3 * reach + len(masses)]
    body[0] += sum(padded[: 3 * reach])
    body[-1] += sum(padded[3 * reach + len(masses) :])
    return body


def _running_mean(values: Sequence[float], reach: int) -> list[float]:
    sums = [0.0, *accumulate(values)]
    last, of = len(values), 2 * reach + 1
    return [(sums[min(last, at + reach + 1)] - sums[max(0, at - reach)]) / of for at in range(last)]


def total(parts: Iterable[Counts]) -> Counts:
    merged = Counts()
    for part in parts:
        merged += part
    return merged
