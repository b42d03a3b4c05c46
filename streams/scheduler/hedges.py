"""Permits hedges, for the responses of this worker's partitions: `streams.policy.hedge_permits` with what this process
knows.

Nothing is stored. After a restart the budget is empty, and all that was learned of classes and lanes begins anew.
"""

from typing import Any

from backstop.runtime.process.bounded_labels import BoundedLabel
from schemas.results import JobResult
from streams import metrics
from streams.fold import job
from streams.fold.batch import Folded
from streams.policy.hedge_permits import HedgeCount, HedgePermits

MODELS = BoundedLabel(100)


class Hedges(HedgePermits):
    """Learns from the batches of the jobs log, and counts."""

    def _counted(self, outcome: HedgeCount) -> None:
        metrics.HEDGES.labels(outcome=outcome).inc()

    def _found_stuck(self, model: str, of_share: float) -> None:
        metrics.HEDGES_STUCK.labels(model=MODELS.of(model)).set(of_share)

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
