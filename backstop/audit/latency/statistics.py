"""Quantiles and shares with their 95 % confidence intervals. Pure.

Without censored values the interval of a quantile is that between two order statistics, which holds for every
distribution. With censored ones it comes from the Kaplan-Meier curve (Greenwood, log-log). A bound that the sample is
too small to give is None.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, floor, lgamma, log, sqrt
from typing import Final, NamedTuple

Z: Final = 1.959964
TAIL: Final = 0.025
EXACT_MAX: Final = 2_000
"""Up to so many values the ranks are exact; beyond it the binomial is taken for normal."""


class Sample(NamedTuple):
    """A span in ms; `ended` false: it was still going on after so long."""

    ms: int
    ended: bool = True


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its bounds; None: not known from this sample."""

    value: float | None
    low: float | None
    high: float | None


def quantiles(samples: Sequence[Sample], shares: Sequence[float]) -> list[Interval]:
    """The quantiles, in the order of `shares`."""
    if all(sample.ended for sample in samples):
        ordered = sorted(sample.ms for sample in samples)
        return [_of_order(ordered, share) for share in shares]
    curve = survival(samples)
    return [_of_curve(curve, share) for share in shares]


class Point(NamedTuple):
    """The share that goes on after `ms`, and the spread of ln(-ln) of it; None where it has none."""

    ms: int
    share: float
    spread: float | None


def survival(samples: Sequence[Sample]) -> list[Point]:
    """The Kaplan-Meier curve: one point for each span at which something ended."""
    ordered = sorted(samples, key=lambda sample: (sample.ms, not sample.ended))
    points, share, greenwood, at = list[Point](), 1.0, 0.0, 0
    while at < len(ordered):
        ms, risk, ended = ordered[at].ms, len(ordered) - at, 0
        while at < len(ordered) and ordered[at].ms == ms:
            ended += ordered[at].ended
            at += 1
        if not ended:
            continue
        share *= 1 - ended / risk
        if ended < risk:
            greenwood += ended / (risk * (risk - ended))
            points.append(Point(ms, share, sqrt(greenwood) / abs(log(share))))
        else:
            points.append(Point(ms, 0.0, None))
    return points


def proportion(hits: int, of: int) -> Interval:
    """A share, with Wilson's interval."""
    if not of:
        return Interval(None, None, None)
    share, z2 = hits / of, Z * Z
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    reach = Z * sqrt(share * (1 - share) / of + z2 / (4 * of * of)) / (1 + z2 / of)
    return Interval(share, max(0.0, middle - reach), min(1.0, middle + reach))


def _of_order(ordered: Sequence[int], share: float) -> Interval:
    count = len(ordered)
    if not count:
        return Interval(None, None, None)
    low, high = ranks(count, share)
    value = ordered[max(0, ceil(share * count) - 1)]
    return Interval(value, ordered[low - 1] if low else None, ordered[high - 1] if high <= count else None)


def ranks(count: int, share: float) -> tuple[int, int]:
    """The ranks (from 1) of the order statistics between which the quantile lies with 95 %; 0 or count + 1: none."""
    if count > EXACT_MAX:
        reach = Z * sqrt(count * share * (1 - share))
        return max(0, floor(count * share - reach)), min(count + 1, ceil(count * share + reach) + 1)
    low, high, below = 0, count + 1, 0.0
    for number in range(count + 1):
        if below <= TAIL:
            low = number  # P(fewer than `number` values lie below the quantile) is still small.
        below += _binomial(count, number, share)
        if below >= 1 - TAIL:
            high = number + 1
            break
    return low, high


def _binomial(count: int, number: int, share: float) -> float:
    ways = lgamma(count + 1) - lgamma(number + 1) - lgamma(count - number + 1)
    return exp(ways + number * log(share) + (count - number) * log(1 - share))


def _of_curve(curve: Sequence[Point], share: float) -> Interval:
    left = 1 - share
    value = next((point.ms for point in curve if point.share <= left + 1e-12), None)
    wanted = log(-log(left))
    inside = [
        point.ms
        for point in curve
        if 0 < point.share < 1 and point.spread and abs(log(-log(point.share)) - wanted) <= Z * point.spread
    ]
    if not inside:
        return Interval(value, None, None)
    beyond = next((point.ms for point in curve if point.ms > inside[-1]), None)
    return Interval(value, inside[0], beyond)
