"""Feeds the estimator of run times and of the webhook loss from the facts of responses, and keeps its schedules fresh.

In memory only, and only of the partitions that this worker owns. After a recovery the running rows enter at their age.
Decisions are stamped on facts, so nothing here is asked again when a log is folded again.
"""

import asyncio
from collections.abc import Collection
from typing import Any, Final

import orjson

from backstop.runtime.process.clock import NowMs
from backstop.runtime.process.pausing import pause
from streams.fold.batch import Folded
from streams.fold.rows import decode_row
from streams.policy.learned_polls import REFRESH_MS_MIN, LearnedPolls
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
