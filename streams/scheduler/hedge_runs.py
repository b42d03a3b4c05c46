"""Tells the estimator how long the responses run that may be hedged, from the rows and facts of the responses log.

A response counts as ended by the provider's own clock. One that was cancelled or released, or whose end the provider
does not date, is censored: it ran at least as long as it was known to run. So is the loser of each hedge.
"""

from collections.abc import Collection, Sequence
from typing import Any

from pydantic import ValidationError

from backstop.runtime.process.clock import NowMs
from schemas.base import Message
from schemas.responses import ResponseClaimed, ResponseObserved, ResponseReleased
from streams.fold import response
from streams.fold.batch import RESPONSE_FOLD, Folded
from streams.fold.rows import decode_row
from streams.policy.latency import Latencies

RECALLED_ENDS = 2_000
"""Ends of each class that a partition's tail may bring: more than it has."""

_HEDGED = (b'"hedge":', b'"kind":"running"')


class HedgeRuns:
    """Keeps `latencies` in step with the log. A `RowWatch`."""

    def __init__(self, latencies: Latencies, now_ms: NowMs) -> None:
        self._latencies = latencies
        self._now_ms = now_ms
        self._partitions: dict[str, int] = {}

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
                self._began(partition, key.decode(), state.hedge.model, state.claim.claimed_at_ms)

    def own(self, partitions: Collection[int]) -> None:
        """Another worker follows the responses of all other partitions."""
        now_ms = self._now_ms()
        for response_id in [each for each, partition in self._partitions.items() if partition not in partitions]:
            self._left(response_id, now_ms)

    def taken(self, partition: int, folded: Folded[Any]) -> None:
        for key, fact in folded.facts:
            match fact:
                case ResponseClaimed():
                    if fact.hedge is not None:
                        self._began(partition, key.decode(), fact.hedge.model, fact.at_ms)
                case ResponseReleased():
                    self._left(key.decode(), fact.at_ms)
                case ResponseObserved():
                    self._observed(fact)
                case _:
                    pass

    def recall(self, facts: Sequence[Message], until_ms: int) -> None:
        """Count the responses of a partition that were claimed before `until_ms`, as `PollLearning.recall` does."""
        at_ms, past = [0], Latencies()
        runs = HedgeRuns(past, lambda: at_ms[0])
        for fact in facts:
            if fact.at_ms <= until_ms:
                at_ms[0] = max(at_ms[0], fact.at_ms)
                runs.taken(0, Folded(facts=[(fact.key.encode(), fact)]))
        self._latencies.merge(past.snapshot(until_ms, RECALLED_ENDS), self._now_ms())

    def _began(self, partition: int, response_id: str, model: str, accepted_at_ms: int) -> None:
        self._partitions[response_id] = partition
        self._latencies.began(response_id, (model,), accepted_at_ms, self._now_ms())

    def _left(self, response_id: str, at_ms: int) -> None:
        self._partitions.pop(response_id, None)
        known = self._latencies.opened(response_id)
        if known is not None:
            self._latencies.left(response_id, known.age_ms(at_ms), self._now_ms())

    def _observed(self, fact: ResponseObserved) -> None:
        if fact.outcome in ("running", "odd", "missing"):
            return
        began_ms, ended_ms = fact.provider_created_at_ms, fact.provider_ended_at_ms
        if fact.outcome == "cancelled" or began_ms is None or ended_ms is None:
            self._left(fact.response_id, fact.at_ms)
            return
        self._partitions.pop(fact.response_id, None)
        self._latencies.ended(fact.response_id, max(0, ended_ms - began_ms), self._now_ms())
