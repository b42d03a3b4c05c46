"""Feeds the estimator of run times and of the webhook loss from the facts of responses, and keeps its schedules fresh.

In memory only, and only of the partitions that this worker owns. After a recovery the running rows enter at their age,
and the tail of the log tells of the responses before them (`past_runs`).
Decisions are stamped on facts, so nothing here is asked again when a log is folded again.
"""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, Final

import orjson

from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.pausing import pause
from schemas.base import Message
from streams.fold.batch import Folded
from streams.fold.rows import decode_row
from streams.policy.learned_polls import REFRESH_MS_MIN, LearnedPolls, PollPrice
from streams.policy.seen_facts import SeenFacts
from streams.workers.metrics import WorkerMetrics
from streams.workers.rate import PollRate

RUNNING_MARK: Final = b'"kind":"running"'


class PollLearning(SeenFacts):
    """A `RowWatch` of the table of responses, and the reader of their facts."""

    def __init__(self, learned: LearnedPolls, rate: PollRate, now_ms: NowMs, metrics: WorkerMetrics) -> None:
        super().__init__(learned, now_ms)
        self._rate = rate
        self._metrics = metrics

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

    def recall(self, facts: Sequence[Message], until_ms: int) -> None:
        """Count the responses of a partition that were claimed before `until_ms`, when the worker began to own it.

        :param facts: the tail of its log, in order. They are counted at their own time by an estimator of their own,
            then added up. A response that ran on at `until_ms` has run from its claim until then; its row counts from
            there.
        """
        at_ms = [0]
        past = LearnedPolls(PollPrice())
        seen = SeenFacts(past, lambda: at_ms[0])
        for fact in facts:
            if fact.at_ms <= until_ms:
                at_ms[0] = max(at_ms[0], fact.at_ms)
                seen.took(0, [fact])
        self._learned.latencies.merge(past.latencies.snapshot(until_ms), self._now_ms())
        self._learned.expire()
