"""How long runs of each model take, by the latest of them. Pure, bounded."""

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from dataclasses import dataclass, field

RUNS_REMEMBERED = 200
RUNS_MIN = 20
"""With fewer runs nothing is known: a quantile of them is not meaningful."""
MODELS_MAX = 1_000
LEAST_SHARE, MEDIAN_SHARE = 0.1, 0.5


@dataclass(slots=True)
class _Runs:
    latest_ms: deque[int] = field(default_factory=deque)
    ordered_ms: list[int] = field(default_factory=list)
    """The same runs by length."""


class RunTimes:
    def __init__(self, models_max: int = MODELS_MAX) -> None:
        self._models: OrderedDict[str, _Runs] = OrderedDict()
        self._models_max = models_max

    def learn(self, model: str, run_ms: int) -> None:
        runs = self._models.setdefault(model, _Runs())
        self._models.move_to_end(model)
        if len(self._models) > self._models_max:
            self._models.popitem(last=False)
        if len(runs.latest_ms) == RUNS_REMEMBERED:
            del runs.ordered_ms[bisect_left(runs.ordered_ms, runs.latest_ms.popleft())]
        runs.latest_ms.append(max(0, run_ms))
        insort(runs.ordered_ms, max(0, run_ms))

    def quantile_ms(self, model: str, share: float) -> int | None:
        """What this share of the runs takes at most; None if it is not known."""
        runs = self._models.get(model)
        if runs is None or len(runs.ordered_ms) < RUNS_MIN:
            return None
        return runs.ordered_ms[int(share * len(runs.ordered_ms))]

    def least_ms(self, model: str) -> int:
        """What nine of ten runs take at least; 0 if it is not known."""
        return self.quantile_ms(model, LEAST_SHARE) or 0

    def median_ms(self, model: str) -> int:
        """0 if it is not known."""
        return self.quantile_ms(model, MEDIAN_SHARE) or 0
