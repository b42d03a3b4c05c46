"""The schedule of polls that costs least, for one distribution of run times. Pure.

A poll costs `price_s` seconds: so much mean delay is one poll worth. For a class with the price of a poll `a` and the
share `l` of ends without a webhook it is a/l, as a poll is only of use where the webhook is lost. The cost of the polls
that are still to come, from the age at the end of bucket i on, is

    V(i) = min over k > i of  price * S(k) + sum over i < j <= k of p(j) * (edge(k) - value(j)) + V(k)

where S(k) is the share that runs at the end of bucket k, and p(j) the share that ends in bucket j. It is found from the
last bucket backwards. The best k never grows as i falls, so each search ends at the result of the one before. What
comes out is a table *age -> age of the next poll*: right from any age, also after an outage.

Bounds: polls are at least `SPACING_MIN_MS` apart, and at most `spacing_max_ms` apart once 1 % have ended.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from streams.policy.latency_counts import BUCKETS, EDGES_MS, bucket, value_ms

SPACING_MIN_MS = 1_000
SPACING_MS_MAX = 3_600_000
BEGUN = 0.01
"""Once this share has ended, the longest spacing holds."""

RUNNING_LEAST = 1e-7
"""A smaller share that still runs is taken for none."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The ages at which a schedule may poll, and the run time that stands for what ends between two of them."""

    edges_ms: Sequence[float]
    values_ms: Sequence[float]


GRID = Grid(EDGES_MS, tuple(value_ms(number) for number in range(BUCKETS)))


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to poll next, by age."""

    edges_ms: Sequence[float]
    first: int
    """The bucket at whose end the first poll is."""
    following: Sequence[int]
    """The bucket at whose end the next poll is, for a poll at the end of each bucket before the last."""
    keep_ms: float
    """The spacing at all later ages."""
    begun_ms: float
    """The age from which the longest spacing holds."""
    spacing_max_ms: float
    polls: float
    """Mean polls of a job that find it running (Y)."""
    delay_ms: float
    """Mean time from the end to the poll that finds it (D), where webhooks are lost."""

    def next_age_ms(self, age_ms: float, at: int | None = None) -> float:
        """The age of the poll after a poll at this age, or of the first poll for age 0.

        :param at: the bucket of the age, where it is not one of the buckets of `latency_counts`.
        """
        if age_ms <= 0:
            return self.edges_ms[self.first]
        number = bucket(age_ms) if at is None else at
        if number >= len(self.following):
            return age_ms + self.keep_ms
        latest_ms = max(self.begun_ms, age_ms) + self.spacing_max_ms
        return max(min(self.edges_ms[self.following[number]], latest_ms), age_ms + SPACING_MIN_MS)

    def ages_ms(self) -> Iterator[float]:
        """The ages of the polls from age 0 on, to the end of the table."""
        at = self.first
        yield self.edges_ms[at]
        while at < len(self.following):
            at = self.following[at]
            yield self.edges_ms[at]


def schedule(
    masses: Sequence[float], price_s: float, spacing_max_ms: float = SPACING_MS_MAX, grid: Grid = GRID
) -> Schedule:
    """The schedule with the least price * polls + delay.

    :param masses: the share that ends in each bucket of `grid`; the sum is 1.
    """
    edges, price = grid.edges_ms, price_s * 1_000
    ended = list(accumulate(masses))
    ended_ms = list(accumulate(mass * value for mass, value in zip(masses, grid.values_ms, strict=True)))
    last = next((at for at, share in enumerate(ended) if 1.0 - share <= RUNNING_LEAST), len(ended) - 1)
    earliest = next((at for at, share in enumerate(ended) if share > 0), last)
    begun_ms = edges[next((at for at, share in enumerate(ended) if share > BEGUN), last)]
    # What a poll at the end of each bucket costs, without the part that depends on the poll before it.
    costs = [price * max(0.0, 1.0 - share) + edge * share for share, edge in zip(ended, edges, strict=True)]
    costs = [cost - gone_ms for cost, gone_ms in zip(costs, ended_ms, strict=True)]
    following, least, most, best = [last] * last, last, last, last
    for at in range(last - 1, earliest - 1, -1):
        while least > at + 1 and edges[least - 1] - edges[at] >= SPACING_MIN_MS:
            least -= 1
        while most > least and edges[most] > max(edges[at], begun_ms) + spacing_max_ms:
            most -= 1
        value, best = _least(costs, edges, ended[at], least, max(least, min(best, most)))
        following[at] = best
        costs[at] += value + ended_ms[at]
    while most > 0 and edges[most] > begun_ms + spacing_max_ms:
        most -= 1
    least = next((at for at in range(earliest, last) if edges[at] >= SPACING_MIN_MS), last)
    value, first = _least(costs, edges, 0.0, least, max(least, min(best, most)))
    following[:earliest] = [max(first, at + 1) for at in range(earliest)]
    polls, keep_ms = _path(first, following, ended, edges)
    keep_ms = min(max(keep_ms, SPACING_MIN_MS), spacing_max_ms)
    delay_ms = max(0.0, value - price * polls)
    return Schedule(edges, first, following, keep_ms, begun_ms, spacing_max_ms, polls, delay_ms)


def _least(
    costs: Sequence[float], edges: Sequence[float], gone: float, least: int, most: int
) -> tuple[float, int]:  # fmt: skip
    """The least cost of a next poll in these buckets after the share `gone` has ended, and its bucket."""
    found = [cost - edge * gone for cost, edge in zip(costs[least : most + 1], edges[least : most + 1], strict=True)]
    value = min(found)
    return value, least + found.index(value)


def _path(first: int, following: Sequence[int], ended: Sequence[float], edges: Sequence[float]) -> tuple[float, float]:
    """Mean polls in vain from age 0 on, and the longer of the last two spacings."""
    polls, at, spacings = 1.0 - ended[first], first, [edges[first]]
    while at < len(following):
        spacings.append(edges[following[at]] - edges[at])
        at = following[at]
        polls += max(0.0, 1.0 - ended[at])
    return polls, max(spacings[-2:])
