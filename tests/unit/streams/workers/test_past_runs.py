"""What a worker that starts knows of the responses before it: the tail of the log, read beside the folds."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence

import pytest
from prometheus_client import CollectorRegistry

from backstop.runtime.errors import BrokerUnavailableError
from backstop.runtime.records import Record
from schemas.base import Message
from schemas.codec import encode
from schemas.hedges import HedgeTerms
from streams.policy.latency import ALL, Latencies
from streams.policy.latency_counts import Curve
from streams.policy.learned_polls import LearnedPolls, PollPrice
from streams.policy.polls import PollPolicy, Webhooks
from streams.scheduler.hedge_runs import HedgeRuns
from streams.workers.metrics import WorkerMetrics
from streams.workers.past_runs import PastRuns
from streams.workers.poll_learning import PollLearning
from streams.workers.rate import PollRate
from tests.support import builders as build

T0 = build.T0
NOW = T0 + 3_600_000
LEAF = ("gpt", "high", "small")
HEDGE = HedgeTerms(model="gpt")


def ended(number: int, run_ms: int) -> list[Message]:
    name, at_ms = f"resp_{number}", T0 + 10_000 * number
    return [
        build.claimed(at_ms, response_id=name, latency_class=LEAF, hedge=HEDGE),
        build.webhook(at_ms=at_ms + run_ms, response_id=name),
        build.observed(
            at_ms + run_ms, "completed", response_id=name, provider_created_at_ms=at_ms,
            provider_ended_at_ms=at_ms + run_ms,
        ),
    ]  # fmt: skip


def log_of(*facts: Message, partition: int = 3) -> list[Record]:
    in_order = sorted(facts, key=lambda fact: fact.at_ms)
    return [
        Record("responses", partition, offset, fact.at_ms, fact.key.encode(), encode(fact))
        for offset, fact in enumerate(in_order)
    ]


class Worker:
    """The learning parts of a worker that owns nothing yet."""

    def __init__(self, *logs: Sequence[Record], away: int = 0) -> None:
        """:param away: so many reads find no broker."""
        now_ms: Callable[[], int] = lambda: NOW  # noqa: E731
        self.learned, self.hedged = LearnedPolls(PollPrice(), Latencies()), Latencies()
        metrics, rate = WorkerMetrics(CollectorRegistry()), PollRate(20.0, now_ms)
        self.learning = PollLearning(self.learned, rate, now_ms, metrics)
        hedges = HedgeRuns(self.hedged, now_ms)
        self.asked: list[list[int]] = []

        async def read(partitions: Collection[int]) -> AsyncIterator[Sequence[Record]]:
            self.asked.append(sorted(partitions))
            if len(self.asked) <= away:
                raise BrokerUnavailableError("no broker")
            for log in logs:
                yield [record for record in log if record.partition in partitions]

        self.past = PastRuns(read, [self.learning.recall, hedges.recall], now_ms, again_s=0)

    def start(self, *owned: Collection[int]) -> None:
        async def run() -> None:
            stop = asyncio.Event()
            running = asyncio.create_task(self.past.run(stop))
            for partitions in owned:
                self.past.own(partitions)
                for _ in range(20):
                    await asyncio.sleep(0)
            stop.set()
            await running

        asyncio.run(run())

    def curve(self) -> Curve:
        return self.learned.latencies.curve(LEAF, NOW)


def test_a_worker_that_starts_knows_the_run_times_and_does_not_poll_by_the_fixed_schedule() -> None:
    worker = Worker(log_of(*(fact for number in range(50) for fact in ended(number, 1_000 * (number + 1)))))
    worker.start([3])
    assert worker.curve().ends == 50
    assert worker.curve().quantile_ms(0.5) == pytest.approx(25_000, rel=0.03)
    assert worker.hedged.curve(("gpt",), NOW).ends == 50
    assert worker.learned.outdated(NOW)
    for _ in worker.learned.refresh(NOW, 20.0):
        pass
    decision = Webhooks(PollPolicy(), learned=worker.learned).next_poll(
        response_id="resp_x", latency_class=LEAF, accepted_at_ms=NOW, now_ms=NOW, polls=0
    )
    assert decision.basis is not None


def test_a_response_that_runs_on_counts_as_one_that_has_not_ended() -> None:
    """Otherwise the long ones would be missing: of 20 of this log the longest half still runs."""
    short = [fact for number in range(10) for fact in ended(number, 5_000)]
    long = [build.claimed(T0 + number, response_id=f"long_{number}", latency_class=LEAF) for number in range(10)]
    worker = Worker(log_of(*long, *short))
    worker.start([3])
    assert worker.curve().running(6_000) == pytest.approx(0.5)


def test_a_response_that_was_let_go_counts_as_far_as_it_was_known_to_run() -> None:
    gone = [
        build.claimed(T0, response_id="gone", latency_class=LEAF, hedge=HEDGE),
        build.observed(T0 + 8_000, "running", response_id="gone"),
        build.released(T0 + 9_000, response_id="gone"),
    ]
    worker = Worker(log_of(*gone, *ended(1, 20_000)))
    worker.start([3])
    assert worker.curve().ends == 1
    assert worker.curve().running(19_000) == 1.0


def test_facts_after_the_worker_began_to_own_the_partition_are_its_own_to_count() -> None:
    name = "resp_new"
    new = [
        build.claimed(NOW - 5_000, response_id=name, latency_class=LEAF),
        build.observed(NOW + 1, "completed", response_id=name, provider_created_at_ms=NOW, provider_ended_at_ms=NOW),
    ]
    worker = Worker(log_of(*new))
    worker.start([3])
    assert worker.learned.latencies.curve(ALL, NOW).ends == 0


def test_what_is_no_fact_is_passed_over_and_a_partition_is_read_once() -> None:
    bad = [Record("responses", 3, 0, T0, b"k", value) for value in (None, b"{", b'{"type":"response_claimed"}')]
    worker = Worker([*bad, *log_of(*ended(1, 5_000))])
    worker.start([3], [3, 4], [3, 4], [4])
    assert worker.asked == [[3], [4]]
    assert worker.curve().ends == 1


def test_a_log_that_cannot_be_read_is_tried_again() -> None:
    worker = Worker(log_of(*ended(1, 5_000)), away=2)
    worker.start([3])
    assert worker.asked == [[3]] * 3
    assert worker.curve().ends == 1


def test_what_could_not_be_read_is_not_asked_for_when_it_belongs_to_another_worker() -> None:
    asked: list[list[int]] = []

    async def read(partitions: Collection[int]) -> AsyncIterator[Sequence[Record]]:
        asked.append(sorted(partitions))
        if len(asked) == 1:
            past.own([3])  # While it is read.
            raise BrokerUnavailableError("no broker")
        yield []

    worker = Worker()
    past = worker.past = PastRuns(read, [], lambda: NOW, again_s=0)
    worker.start([3, 4])
    assert asked == [[3, 4], [3]]
