"""How long runs of each model take: the median, and what nine of ten runs take at least. Pure, bounded."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

RUNS_REMEMBERED = 200
RUNS_MIN = 20
"""With fewer runs nothing is known."""
MODELS_MAX = 1_000
SORT_EVERY = 10


@dataclass(slots=True)
class _Runs:
    runs_ms: deque[int] = field(default_factory=lambda: deque(maxlen=RUNS_REMEMBERED))
    learned: int = 0
    least_ms: int = 0
    median_ms: int = 0


class RunTimes:
    def __init__(self) -> None:
        self._models: OrderedDict[str, _Runs] = OrderedDict()

    def learn(self, model: str, run_ms: int) -> None:
        runs = self._models.setdefault(model, _Runs())
        self._models.move_to_end(model)
        if len(self._models) > MODELS_MAX:
            self._models.popitem(last=False)
        runs.runs_ms.append(max(0, run_ms))
        runs.learned += 1
        if len(runs.runs_ms) >= RUNS_MIN and runs.learned % SORT_EVERY == 0:
            ordered = sorted(runs.runs_ms)
            runs.least_ms, runs.median_ms = ordered[len(ordered) // 10], ordered[len(ordered) // 2]

    def least_ms(self, model: str) -> int:
        """What nine of ten runs take at least; 0 if it is not known."""
        runs = self._models.get(model)
        return 0 if runs is None else runs.least_ms

    def median_ms(self, model: str) -> int:
        runs = self._models.get(model)
        return 0 if runs is None else runs.median_ms
