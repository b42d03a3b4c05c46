"""Run times by model and the time of the last end, as one process observed them. In memory, bounded."""

from collections import OrderedDict, deque

from streams.workers.facts import Others

RUNS_REMEMBERED = 200
RUNS_MIN = 20
"""With fewer runs a high quantile is not meaningful."""
QUANTILE = 0.9
MODELS_MAX = 200


class Ends:
    """Observed ends, to judge whether a running response is stuck."""

    def __init__(self) -> None:
        self._runs_ms: OrderedDict[str, deque[int]] = OrderedDict()
        self._last_ms: int | None = None

    def ended(self, model: str, run_ms: int | None, now_ms: int) -> None:
        self._last_ms = now_ms
        if run_ms is None:
            return
        runs = self._runs_ms.setdefault(model, deque(maxlen=RUNS_REMEMBERED))
        runs.append(run_ms)
        self._runs_ms.move_to_end(model)
        if len(self._runs_ms) > MODELS_MAX:
            self._runs_ms.popitem(last=False)

    def others(self, model: str) -> Others:
        runs = self._runs_ms.get(model, ())
        typical_ms = sorted(runs)[int(QUANTILE * len(runs))] if len(runs) >= RUNS_MIN else None
        return Others(self._last_ms, typical_ms)
