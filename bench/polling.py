"""The polling policy against the least cost that any schedule can have, in virtual time. No broker, no clock.

    python -m bench.polling [--draws 20] [--svg docs/polling-frontier.svg]

Calls the product's own estimator and policies. Learns from n jobs of a known distribution, and compares the
schedule with the one that backward induction finds from the true distribution, in buckets of 0.6 %. All times in s.

Y: polls in vain a job. D: mean delay from the end to the poll that finds it, where the webhook is lost. J = r * Y + D.
eta: Y of the optimum at the same D, divided by Y.
"""

import argparse
import itertools
import random
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import erf, exp, inf, log, sqrt
from pathlib import Path
from statistics import fmean

from bench.polling_plot import frontier_svg
from streams.policy.latency import Latencies, LatencyClass
from streams.policy.latency_counts import smoothed
from streams.policy.learned_polls import FEW_ENDS, SMOOTH_WIDTH, SMOOTH_WIDTH_FEW
from streams.policy.poll_schedule import SPACING_MS_MAX, Grid, Schedule, schedule
from streams.policy.polls import JITTER_HIGH, JITTER_LOW

PRICES = (0.4, 2.0, 5.0, 15.0, 40.0, 120.0, 400.0)
LEAF: LatencyClass = ("model", "high", "small")
FINE = 1.006
FROM_S, TO_S = 0.5, 14_400.0
POLLS_MAX = 5_000


def _normal(x: float) -> float:
    return 0.5 * (1 + erf(x / sqrt(2)))


@dataclass(frozen=True)
class Times:
    """A distribution of run times."""

    name: str
    share: Callable[[float], float]
    """The share that ended by a time."""
    draw: Callable[[random.Random], float]

    @property
    def median_s(self) -> float:
        low, high = FROM_S, TO_S
        while high / low > 1.0001:
            low, high = (sqrt(low * high), high) if self.share(sqrt(low * high)) < 0.5 else (low, sqrt(low * high))
        return low


def lognormal(median_s: float, sigma: float, name: str = "") -> Times:
    return Times(
        name or f"lognormal {sigma}",
        lambda t: _normal(log(t / median_s) / sigma) if t > 0 else 0.0,
        lambda chance: median_s * exp(sigma * chance.gauss(0, 1)),
    )


def weibull(scale_s: float, shape: float, name: str) -> Times:
    return Times(
        name,
        lambda t: 1 - exp(-((t / scale_s) ** shape)) if t > 0 else 0.0,
        lambda chance: chance.weibullvariate(scale_s, shape),
    )


def two_humps() -> Times:
    quick, slow = lognormal(20, 0.5), lognormal(300, 0.6)
    return Times(
        "two humps",
        lambda t: 0.7 * quick.share(t) + 0.3 * slow.share(t),
        lambda chance: (quick if chance.random() < 0.7 else slow).draw(chance),
    )


FIVE = (
    lognormal(60, 0.8), lognormal(60, 1.2), weibull(90, 2, "Weibull k = 2"), weibull(90, 1, "exponential"), two_humps(),
)  # fmt: skip


@cache
def fine_edges() -> tuple[float, ...]:
    edges = [FROM_S * 1_000]
    while edges[-1] < TO_S * 1_000:
        edges.append(edges[-1] * FINE)
    return tuple(edges)


@cache
def mean_s(times: Times) -> float:
    edges = fine_edges()
    shares = [0.0, *(times.share(edge / 1_000) for edge in edges)]
    values = [edges[0] / 2, *(0.5 * (a + b) for a, b in itertools.pairwise(edges))]
    return sum((b - a) * v for a, b, v in zip(shares, shares[1:], values, strict=False)) / 1_000


@cache
def optimum(times: Times, price_s: float) -> tuple[float, float]:
    """Y and D of the best schedule, without jitter and bounds, from the true distribution."""
    edges = fine_edges()
    shares = [times.share(edge / 1_000) for edge in edges]
    masses = [shares[0], *(b - a for a, b in itertools.pairwise(shares))]
    masses[-1] += 1 - shares[-1]
    values = (edges[0] / 2, *(0.5 * (a + b) for a, b in itertools.pairwise(edges)))
    made = schedule(masses, price_s, SPACING_MS_MAX * 4, Grid(edges, values))
    return judged(times, [age / 1_000 for age in made.ages_ms()])


def judged(times: Times, polls_s: Sequence[float]) -> tuple[float, float]:
    """Y and D of polls at these ages, exactly."""
    before, in_vain, found_s = 0.0, 0.0, 0.0
    for age in polls_s:
        ended = times.share(age)
        in_vain += 1 - ended
        found_s += age * (ended - before)
        before = ended
    return in_vain, found_s - mean_s(times) * before


@cache
def best_polls(times: Times) -> tuple[tuple[float, float], ...]:
    """The frontier of the optimum: (D, Y), D ascending."""
    return tuple(sorted((d, y) for y, d in (optimum(times, 0.1 * 1.6**step) for step in range(24))))


def efficiency(times: Times, in_vain: float, delay_s: float) -> float:
    """Eta, by the frontier of the optimum, interpolated in logarithms."""
    best = best_polls(times)
    at = min(max(bisect_left(best, (delay_s, 0.0)), 1), len(best) - 1)
    (d0, y0), (d1, y1) = best[at - 1], best[at]
    share = (log(delay_s) - log(d0)) / (log(d1) - log(d0))
    return exp(log(y0) + share * (log(y1) - log(y0))) / in_vain


def ages_s(next_age_s: Callable[[float], float], chance: random.Random | None) -> Iterator[float]:
    """The ages of a job's polls, each spacing jittered as the product does."""
    age = 0.0
    while age < TO_S:
        spacing = next_age_s(age) - age
        age += spacing * (chance.uniform(JITTER_LOW, JITTER_HIGH) if chance is not None else 1.0)
        yield age


@cache
def learned(times: Times, ended: int, draw: int, median_s: float) -> tuple[float, ...]:
    """The product's masses after so many ends, before which nothing was known but a median."""
    chance, latencies = random.Random(f"{times.name}/{ended}/{draw}"), Latencies(root_median_ms=int(median_s * 1_000))
    for number in range(ended):
        latencies.began(str(number), LEAF, 0, 0)
        latencies.ended(str(number), int(times.draw(chance) * 1_000), 0)
    curve = latencies.learned(LEAF, 0)
    return tuple(smoothed(curve.masses(), SMOOTH_WIDTH_FEW if curve.ends < FEW_ENDS else SMOOTH_WIDTH))


@dataclass(frozen=True)
class Point:
    """What a schedule does, as the mean of some jitters; without any if there are none."""

    in_vain: float
    delay_s: float
    efficiency: float
    cost: float
    """J / J*."""


def point(times: Times, next_age_s: Callable[[float], float], price_s: float, jitters: Sequence[int] = ()) -> Point:
    chances: list[random.Random | None] = [random.Random(seed) for seed in jitters]
    found = [judged(times, list(ages_s(next_age_s, chance))) for chance in chances or [None]]
    in_vain, delay_s = fmean(y for y, _ in found), fmean(d for _, d in found)
    best_y, best_d = optimum(times, price_s)
    cost = (price_s * in_vain + delay_s) / (price_s * best_y + best_d)
    return Point(in_vain, delay_s, efficiency(times, in_vain, delay_s), cost)


def of_schedule(made: Schedule) -> Callable[[float], float]:
    return lambda age: made.next_age_ms(age * 1_000) / 1_000


def points(
    times: Times, ended: int, price_s: float, draws: int, jitters: int = 5, median_s: float | None = None
) -> list[Point]:
    """One point for each draw of the `ended` jobs."""
    found = []
    for draw in range(draws):
        masses = learned(times, ended, draw, median_s or times.median_s)
        made = schedule(masses, price_s, SPACING_MS_MAX)
        found.append(point(times, of_schedule(made), price_s, range(draw * jitters, (draw + 1) * jitters)))
    return found


def every(spacing_s: float) -> Callable[[float], float]:
    """A fixed grid."""
    return lambda age: age + spacing_s


def back_off(first_s: float, factor: float, most_s: float) -> Callable[[float], float]:
    """The usual back-off: the waits grow by a factor, up to a limit."""

    def next_age_s(age: float) -> float:
        planned, wait = 0.0, first_s
        while planned <= age + 1e-6:
            planned += wait
            wait = min(wait * factor, most_s)
        return planned

    return next_age_s


def quantiles_s(times: Times, polls_s: Sequence[float], shares: Sequence[float]) -> list[float]:
    """Quantiles of the delay of detection of these polls."""
    found = []
    for number in range(1_000):
        low, high, share = FROM_S / 10, TO_S, (number + 0.5) / 1_000
        while high - low > 0.01:
            low, high = (low, (low + high) / 2) if times.share((low + high) / 2) > share else ((low + high) / 2, high)
        at = bisect_left(polls_s, low)
        found.append(polls_s[at] - low if at < len(polls_s) else inf)
    found.sort()
    return [found[int(each * len(found))] for each in shares]


def frontier(draws: int, svg: Path | None) -> None:
    """Print the frontier; draw it for the first distribution."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for times in FIVE:
        print(f"\n{times.name}: median {times.median_s:.0f}, mean {mean_s(times):.1f}")
        print(
            f"{'schedule':30} {'Y':>7} {'D':>7} {'p95':>7} {'p99':>7} {'eta':>6} {'worst':>6} {'J/J*':>6} {'worst':>6}"
        )
        for name, next_age_s in fixed(times):
            of = point(times, next_age_s, 1.0)
            p95, p99 = quantiles_s(times, list(ages_s(next_age_s, None)), (0.95, 0.99))
            lines.setdefault(name.split(",")[0], []).append((of.in_vain, of.delay_s)) if times is FIVE[0] else None
            print(f"{name:30} {of.in_vain:7.2f} {of.delay_s:7.1f} {p95:7.1f} {p99:7.1f} {of.efficiency:6.2f}")
        for ended in (0, 10, 30, 100, 300, 1_000):
            for price_s in PRICES:
                found = points(times, ended, price_s, draws if ended else 1)
                made = schedule(learned(times, ended, 0, times.median_s), price_s, SPACING_MS_MAX)
                p95, p99 = quantiles_s(times, list(ages_s(of_schedule(made), random.Random(1))), (0.95, 0.99))
                y, d = fmean(each.in_vain for each in found), fmean(each.delay_s for each in found)
                etas, costs = [each.efficiency for each in found], [each.cost for each in found]
                print(
                    f"{f'learned, n = {ended}, r = {price_s:g}':30} {y:7.2f} {d:7.1f} {p95:7.1f} {p99:7.1f} "
                    f"{fmean(etas):6.3f} {min(etas):6.3f} {fmean(costs):6.3f} {max(costs):6.3f}"
                )
                if times is FIVE[0] and ended == 300:
                    lines.setdefault("learned from 300 ends", []).append((y, d))
    if svg is not None:
        lines["optimum"] = [(y, d) for d, y in best_polls(FIVE[0])]
        svg.write_text(frontier_svg(lines))


def fixed(times: Times) -> list[tuple[str, Callable[[float], float]]]:
    """What is usual: back-offs, and fixed grids."""
    found = [
        (f"back-off x{factor:g}, cap {cap:g} s", back_off(2, factor, cap))
        for factor, cap in ((1.5, 15), (1.5, 60), (2, 60), (2, 240))
    ]
    return found + [
        (f"fixed grid, every {share * times.median_s:.0f} s", every(share * times.median_s))
        for share in (0.08, 0.2, 0.5, 1.0, 2.0)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.polling", description=__doc__)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--svg", type=Path, default=None)
    given = parser.parse_args()
    frontier(given.draws, given.svg)


if __name__ == "__main__":
    main()
