"""Feeds the estimator of run times and of the webhook loss from the facts of responses, and keeps its schedules fresh.

In memory only, and only of the partitions that this worker owns. After a recovery the running rows enter at their age,
and the tail of the log tells of the responses before them (`past_runs`).
Decisions are stamped on facts, so nothing here is asked again when a log is folded again.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import structlog

from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.pausing import pause
from schemas.base import Message
from schemas.responses import ResponseClaimed, ResponseObserved, ResponseReleased, WebhookReceived
from streams.fold.batch import Folded
from streams.fold.rows import decode_row
from streams.policy.latency import LatencyClass
from streams.policy.learned_polls import REFRESH_MS_MIN, LearnedPolls, PollPrice
from streams.policy.webhook_loss import JUDGED_AFTER_MS
from streams.workers.metrics import WorkerMetrics
from streams.workers.rate import PollRate

log = structlog.get_logger()

RUNNING_MARK: Final = b'"kind":"running"'
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


class PollLearning:
    """A `RowWatch` of the table of responses, and the reader of their facts."""

    def __init__(self, learned: LearnedPolls, rate: PollRate, now_ms: NowMs, metrics: WorkerMetrics) -> None:
        self._learned = learned
        self._rate = rate
        self._now_ms = now_ms
        self._metrics = metrics
        self._known: dict[str, _Known] = {}
        self._early: OrderedDict[str, int] = OrderedDict()
        self._pending: dict[str, tuple[str, int]] = {}
        """Ends without a webhook so far: the model, and until when one is in time."""

    async def run(self, stop: asyncio.Event) -> None:
        """Compute the schedules where they are outdated. Yields to other work between steps of a few milliseconds."""
        while not stop.is_set():
            now_ms = self._now_ms()
            self.judge(now_ms)
            if self._learned.outdated(now_ms):
                for _ in self._learned.refresh(now_ms, self._rate.per_s):
                    await asyncio.sleep(0)
                self._metrics.learned(self._learned)
            await pause(stop, REFRESH_MS_MIN / 1_000)

    def opened(self, partition: int) -> None:
        self._forget({each for each, known in self._known.items() if known.partition == partition})

    def saw(self, partition: int, rows: Collection[tuple[bytes, bytes | None]]) -> None:
        now_ms = self._now_ms()
        for key, row in rows:
            if row is None or RUNNING_MARK not in row:
                self._forget({key.decode()} & self._known.keys())
                continue
            state = orjson.loads(decode_row(row)[0])
            if state["kind"] == "running" and "released_at_ms" not in state:
                claim = state["claim"]
                of = tuple(claim.get("latency_class", ()))
                self._began(key.decode(), of, partition, claim["claimed_at_ms"], now_ms)

    def own(self, partitions: Collection[int]) -> None:
        """Forget the responses of all other partitions."""
        self._forget({each for each, known in self._known.items() if known.partition not in partitions})

    def taken(self, partition: int, folded: Folded[Any]) -> None:
        """A batch was folded. A webhook after the end counts as well."""
        self.took(partition, [*(fact for _, fact in folded.facts), *folded.late])

    def took(self, partition: int, facts: Iterable[Message]) -> None:
        """Facts were folded."""
        for fact in facts:
            match fact:
                case ResponseClaimed() if not fact.released and not fact.made_elsewhere:
                    of = fact.latency_class or ()
                    self._began(fact.response_id, of, partition, fact.at_ms, self._now_ms())
                    self._learned.arrived(of)
                case WebhookReceived():
                    self._heard(fact)
                case ResponseObserved():
                    self._observed(fact)
                case ResponseReleased():
                    self._forget({fact.response_id} & self._known.keys())
                case _:
                    pass

    def recall(self, facts: Sequence[Message], until_ms: int) -> None:
        """Count the responses of a partition that were claimed before `until_ms`, when the worker began to own it.

        :param facts: the tail of its log, in order. They are counted at their own time by an estimator of their own,
            then added up. A response that ran on at `until_ms` has run from its claim until then; its row counts from
            there.
        """
        at_ms = [0]
        past = LearnedPolls(PollPrice())
        learning = PollLearning(past, self._rate, lambda: at_ms[0], self._metrics)
        for fact in facts:
            if fact.at_ms <= until_ms:
                at_ms[0] = max(at_ms[0], fact.at_ms)
                learning.took(0, [fact])
        self._learned.latencies.merge(past.latencies.snapshot(until_ms), self._now_ms())
        self._learned.expire()

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
