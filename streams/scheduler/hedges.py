"""Permits hedges, for the responses of this worker's partitions: `streams.policy.hedge_permits` with what this process
knows.

Nothing is stored. After a restart the budget is empty, and all that was learned of classes and lanes begins anew.
"""

from collections.abc import Callable
from typing import Any

from schemas.results import JobResult
from streams import metrics
from streams.fold import job
from streams.fold.batch import Folded
from streams.policy.hedge_permits import HedgePermits
from streams.policy.hedging import LANE_REST_MS
from streams.policy.latency import Latencies


class Hedges(HedgePermits):
    """Learns from the batches of the jobs log, and counts."""

    def __init__(
        self,
        latencies: Latencies,
        share: float,
        *,
        lane_rest_ms: int = LANE_REST_MS,
        troubled: Callable[[str], bool] = lambda _model: False,
        busy: Callable[[str, str], bool] = lambda _model, _tenant: False,
    ) -> None:
        super().__init__(
            latencies, share, lane_rest_ms=lane_rest_ms, troubled=troubled, busy=busy,
            counted=lambda outcome: metrics.HEDGES.labels(outcome=outcome).inc(),
        )  # fmt: skip

    def taken(self, _partition: int, folded: Folded[Any]) -> None:
        """Learn from a batch of the jobs log."""
        models: dict[bytes, str] = {
            key: state.spec.model
            for key, state in folded.states.items()
            if isinstance(state, job.Waiting | job.Active | job.BackingOff)
        }
        for output in folded.outputs:
            if isinstance(output, JobResult) and output.model is not None:
                models[output.key.encode()] = output.model
                self.ended(output)
        for key, fact in folded.facts:
            self.took(fact, models.get(key))
