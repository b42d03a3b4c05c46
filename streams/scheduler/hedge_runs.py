"""Tells the estimator how long the responses of this worker's partitions run that may be hedged: from the rows and
facts of the responses log, as `streams.policy.hedged_runs` does from facts alone.
"""

from collections.abc import Collection, Sequence
from typing import Any

from pydantic import ValidationError

from schemas.base import Message
from streams.fold import response
from streams.fold.batch import RESPONSE_FOLD, Folded
from streams.fold.rows import decode_row
from streams.policy.hedged_runs import HedgedRuns
from streams.policy.latency import Latencies

RECALLED_ENDS = 2_000
"""Ends of each class that a partition's tail may bring: more than it has."""

_HEDGED = (b'"hedge":', b'"kind":"running"')


class HedgeRuns(HedgedRuns):
    """Reads the facts, and the rows of a recovery. A `RowWatch`."""

    def opened(self, partition: int) -> None:
        """Nothing to forget: responses that run are known already, or begin now."""

    def saw(self, partition: int, rows: Collection[tuple[bytes, bytes | None]]) -> None:
        """Rows that a recovery or a batch wrote: a response that already runs is counted from its present age."""
        for key, row in rows:
            if row is None or not all(mark in row for mark in _HEDGED):
                continue
            try:
                state = RESPONSE_FOLD.decode_state(decode_row(row)[0])
            except ValidationError:
                continue  # A newer release wrote it; `IndexedRows` counts it.
            if isinstance(state, response.RunningResponse) and state.hedge is not None and state.released_at_ms is None:
                claimed_at_ms = state.claim.claimed_at_ms
                self._began(partition, key.decode(), state.hedge.model, claimed_at_ms, self._now_ms())

    def own(self, partitions: Collection[int]) -> None:
        """Another worker follows the responses of all other partitions."""
        now_ms = self._now_ms()
        for response_id in [each for each, partition in self._partitions.items() if partition not in partitions]:
            self._left(response_id, now_ms)

    def taken(self, partition: int, folded: Folded[Any]) -> None:
        for _, fact in folded.facts:
            self.took(partition, fact)

    def recall(self, facts: Sequence[Message], until_ms: int) -> None:
        """Count the responses of a partition that were claimed before `until_ms`, as `PollLearning.recall` does."""
        at_ms, past = [0], Latencies()
        runs = HedgedRuns(past, lambda: at_ms[0])
        for fact in facts:
            if fact.at_ms <= until_ms:
                at_ms[0] = max(at_ms[0], fact.at_ms)
                runs.took(0, fact)
        self._latencies.merge(past.snapshot(until_ms, RECALLED_ENDS), self._now_ms())
