"""Run times by model and the time of the last end, as one process observed them. In memory, bounded."""

from streams.policy.run_times import RunTimes
from streams.workers.facts import Others

QUANTILE = 0.9
MODELS_MAX = 200


class Ends:
    """Observed ends, to judge whether a running response is stuck."""

    def __init__(self) -> None:
        self._runs = RunTimes(MODELS_MAX)
        self._last_ms: int | None = None

    def ended(self, model: str, run_ms: int | None, now_ms: int) -> None:
        self._last_ms = now_ms
        if run_ms is not None:
            self._runs.learn(model, run_ms)

    def others(self, model: str) -> Others:
        return Others(self._last_ms, self._runs.quantile_ms(model, QUANTILE))
