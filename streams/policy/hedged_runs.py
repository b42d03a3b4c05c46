"""Tells the estimator how long the responses run that may be hedged, from facts of the responses log. Pure.

A response counts as ended by the provider's own clock. One that was cancelled or released, or whose end the provider
does not date, is censored: it ran at least as long as it was known to run. So is the loser of each hedge.
"""

from collections.abc import Callable

from schemas.base import Message
from schemas.responses import ResponseClaimed, ResponseObserved, ResponseReleased
from streams.policy.latency import Latencies


class HedgedRuns:
    """Keeps `latencies` in step with the log."""

    def __init__(self, latencies: Latencies, now_ms: Callable[[], int]) -> None:
        self._latencies = latencies
        self._now_ms = now_ms
        self._partitions: dict[str, int] = {}

    def took(self, partition: int, fact: Message) -> None:
        """A fact was folded."""
        match fact:
            case ResponseClaimed():
                if fact.hedge is not None:
                    # The log tells of all, also of those that have ended: they are seen from their beginning.
                    self._began(partition, fact.response_id, fact.hedge.model, fact.at_ms, fact.at_ms)
            case ResponseReleased():
                self._left(fact.response_id, fact.at_ms)
            case ResponseObserved():
                self._observed(fact)
            case _:
                pass

    def _began(self, partition: int, response_id: str, model: str, accepted_at_ms: int, seen_at_ms: int) -> None:
        self._partitions[response_id] = partition
        self._latencies.began(response_id, (model,), accepted_at_ms, seen_at_ms)

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
