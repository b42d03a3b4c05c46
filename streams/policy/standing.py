"""Which members of a lane use less of it than their fair share. Pure.

Rules:
- A member is a tenant in a class. Its fair share is its weight among the active members of its class, and one newcomer
  of weight 1, of the weight of its class among the active classes. Active is what has begun a job or waited within
  `WINDOW_MS`.
- Use is counted in milliseconds of the lane: how long the lane needs for the job at its rate of tokens, or of requests
  if that is longer.
- A member is within its share while its use of the last window, about, is less than its share of the window, and what
  it has waiting as well: a flood is one from its first job on. What it used beyond its share is remembered for one
  more window at most.
"""

from collections import OrderedDict
from dataclasses import dataclass

from schemas.base import Priority
from streams.policy.limits import CLASS_WEIGHTS
from streams.policy.tiers import Standing

WINDOW_MS = 120_000
MEMBERS_MAX = 20_000
"""Members remembered; beyond it the one that was idle for longest is taken for a newcomer."""

ROUNDING = 1e-9
"""Of sums of weights."""

Member = tuple[Priority, str]
"""Class and tenant."""


@dataclass(slots=True)
class _Use:
    weight: float
    at_ms: int
    left_ms: float
    """What is left of its share, in milliseconds of the lane."""
    active_ms: int


class Standings:
    """See the module. Each operation is O(1), amortised."""

    def __init__(self) -> None:
        self._uses: OrderedDict[Member, _Use] = OrderedDict()
        """The one that was idle for longest comes first."""
        self._weights: dict[Priority, float] = {}
        """Of the active members, by class."""

    def of(self, member: Member, weight: float, waiting_ms: float, now_ms: int) -> Standing:
        """The standing of `member`, which has jobs waiting that the lane needs `waiting_ms` for, about."""
        use = self._active(member, weight, now_ms)
        if self._fill(member, use, now_ms) <= 0 or waiting_ms > self._whole_ms(member, use):
            return "beyond"
        return "ahead" if member[0] == "interactive" else "within"

    def used(self, member: Member, weight: float, lane_ms: float, now_ms: int) -> None:
        """`member` begins a job that the lane needs `lane_ms` for."""
        use = self._active(member, weight, now_ms)
        self._fill(member, use, now_ms)
        use.left_ms = max(use.left_ms - lane_ms, -self._whole_ms(member, use))

    def corrected(self, member: Member, less_ms: float) -> None:
        """A job of `member` needed `less_ms` less than counted, or more if it is negative."""
        use = self._uses.get(member)
        if use is not None:
            whole_ms = self._whole_ms(member, use)
            use.left_ms = min(max(use.left_ms + less_ms, -whole_ms), whole_ms)

    def _active(self, member: Member, weight: float, now_ms: int) -> _Use:
        self._forget_idle(now_ms)
        use = self._uses.get(member)
        if use is None:
            self._weights[member[0]] = self._weights.get(member[0], 0.0) + weight
            use = self._uses[member] = _Use(weight, now_ms, 0.0, now_ms)
            use.left_ms = self._whole_ms(member, use)
        use.active_ms = now_ms
        self._uses.move_to_end(member)
        return use

    def _forget_idle(self, now_ms: int) -> None:
        while self._uses:
            member, use = next(iter(self._uses.items()))
            if now_ms - use.active_ms <= WINDOW_MS and len(self._uses) <= MEMBERS_MAX:
                return
            del self._uses[member]
            left = self._weights[member[0]] - use.weight
            if left > ROUNDING:
                self._weights[member[0]] = left
            else:
                del self._weights[member[0]]

    def _fill(self, member: Member, use: _Use, now_ms: int) -> float:
        whole_ms = self._whole_ms(member, use)
        use.left_ms = min(use.left_ms + max(0, now_ms - use.at_ms) * whole_ms / WINDOW_MS, whole_ms)
        use.at_ms = max(use.at_ms, now_ms)
        return use.left_ms

    def _whole_ms(self, member: Member, use: _Use) -> float:
        """The member's share of a window of the lane."""
        priority = member[0]
        of_class = CLASS_WEIGHTS[priority] / sum(CLASS_WEIGHTS[each] for each in self._weights)
        return WINDOW_MS * of_class * use.weight / (self._weights[priority] + 1.0)
