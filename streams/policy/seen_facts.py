"""Feeds the estimator of run times and of the webhook loss from facts of responses. Pure: no clock, no IO.

A worker feeds it what it folds (`streams.workers.poll_learning`), the what-if what it refolds.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from schemas.base import Message
from schemas.responses import ResponseClaimed, ResponseObserved, ResponseReleased, WebhookReceived
from streams.policy.latency import LatencyClass
from streams.policy.learned_polls import LearnedPolls
from streams.policy.webhook_loss import JUDGED_AFTER_MS

EARLY_MAX = 10_000
"""Webhooks remembered that came before the claim of their response."""

PENDING_MAX = 100_000
"""Ends remembered whose webhook may still come in time."""

OPEN = ("running", "missing", "odd")


@dataclass(slots=True)
class _Known:
    """A response that runs, and belongs to a job of ours."""

    of: LatencyClass
    partition: int
    accepted_at_ms: int
    running_at_ms: int
    """When it was last known to run."""
    webhook_at_ms: int | None = None
    webhook_says_ended_ms: int | None = None


class SeenFacts:
    """What the facts tell, response by response. In memory only."""

    def __init__(self, learned: LearnedPolls, now_ms: Callable[[], int]) -> None:
        self._learned = learned
        self._now_ms = now_ms
        self._known: dict[str, _Known] = {}
        self._early: OrderedDict[str, int] = OrderedDict()
        self._pending: dict[str, tuple[str, int]] = {}
        """Ends without a webhook so far: the model, and until when one is in time."""

    def took(self, partition: int, facts: Iterable[Message]) -> None:
        """Facts were folded."""
        for fact in facts:
            match fact:
                case ResponseClaimed() if not fact.released and not fact.made_elsewhere:
                    of = fact.latency_class or ()
                    # The log tells of all, also of those that have ended: they are seen from their beginning.
                    self._began(fact.response_id, of, partition, fact.at_ms, fact.at_ms)
                    self._learned.arrived(of)
                case WebhookReceived():
                    self._heard(fact)
                case ResponseObserved():
                    self._observed(fact)
                case ResponseReleased():
                    self._forget({fact.response_id} & self._known.keys())
                case _:
                    pass

    def judge(self, now_ms: int) -> None:
        """Count as missed the ends whose webhook can't come in time any more."""
        for response_id in [each for each, (_, until_ms) in self._pending.items() if until_ms <= now_ms]:
            model, _ = self._pending.pop(response_id)
            self._learned.loss.judged(model, True, now_ms)

    def _began(self, response_id: str, of: LatencyClass, partition: int, accepted_at_ms: int, now_ms: int) -> None:
        self._learned.latencies.began(response_id, of, accepted_at_ms, now_ms)
        if self._learned.latencies.opened(response_id) is None:
            return  # Too many are open: this one is not counted.
        self._known[response_id] = _Known(
            of, partition, accepted_at_ms, accepted_at_ms, webhook_at_ms=self._early.pop(response_id, None)
        )

    def _heard(self, fact: WebhookReceived) -> None:
        pending = self._pending.pop(fact.response_id, None)
        if pending is not None:
            self._learned.loss.judged(pending[0], fact.at_ms > pending[1], self._now_ms())
            return
        known = self._known.get(fact.response_id)
        if known is not None:
            known.webhook_at_ms = known.webhook_at_ms or fact.at_ms
            known.webhook_says_ended_ms = known.webhook_says_ended_ms or fact.ended_at_ms
            return
        self._early[fact.response_id] = fact.at_ms
        if len(self._early) > EARLY_MAX:
            self._early.popitem(last=False)

    def _observed(self, fact: ResponseObserved) -> None:
        known = self._known.get(fact.response_id)
        if known is None:
            return
        if fact.outcome in OPEN:
            if fact.outcome == "running":
                known.running_at_ms = max(known.running_at_ms, fact.at_ms)
            return
        del self._known[fact.response_id]
        now_ms, run_ms = self._now_ms(), _run_ms(known, fact)
        self._learned.latencies.ended(fact.response_id, run_ms, now_ms)
        # By our clock: only the run time is the provider's.
        in_time_until_ms = known.accepted_at_ms + run_ms + JUDGED_AFTER_MS
        model = known.of[0] if known.of else ""
        if known.webhook_at_ms is not None:
            self._learned.loss.judged(model, known.webhook_at_ms > in_time_until_ms, now_ms)
        elif len(self._pending) < PENDING_MAX:
            self._pending[fact.response_id] = model, max(in_time_until_ms, fact.at_ms)

    def _forget(self, response_ids: Collection[str]) -> None:
        """These responses are no longer followed: they were last known to run at some age."""
        now_ms = self._now_ms()
        for response_id in response_ids:
            known = self._known.pop(response_id)
            self._learned.latencies.left(response_id, known.running_at_ms - known.accepted_at_ms, now_ms)


def _run_ms(known: _Known, fact: ResponseObserved) -> int:
    """The run time by the provider's clock. Without its stamps: the middle of the time in which the end lies."""
    began_ms, ended_ms = fact.provider_created_at_ms, fact.provider_ended_at_ms or known.webhook_says_ended_ms
    if began_ms is not None and ended_ms is not None:
        return max(0, ended_ms - began_ms)
    return max(0, (known.running_at_ms + fact.at_ms) // 2 - known.accepted_at_ms)
