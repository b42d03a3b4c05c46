"""Facts of responses become run times and a webhook loss; rows of running responses enter at their age."""

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from schemas.base import Message
from streams.fold.batch import RESPONSE_FOLD
from streams.fold.response import AbsentResponse, step
from streams.fold.rows import encode_row
from streams.policy.latency import ALL, Latencies
from streams.policy.latency_counts import bucket, value_ms
from streams.policy.learned_polls import REFRESH_MS, LearnedPolls, PollPrice
from streams.policy.polls import PollPolicy, Webhooks
from streams.policy.webhook_loss import JUDGED_AFTER_MS
from streams.workers.metrics import WorkerMetrics
from streams.workers.poll_learning import PollLearning
from streams.workers.rate import PollRate
from tests.support import builders as build

T0 = build.T0
LEAF = ("gpt", "high", "small")
RUN_MS = 40_000
ENDS_MIN = PollPrice().ends_min


class Bench:
    """The learning part of a worker, and its clock."""

    def __init__(self) -> None:
        self.clock = [T0]
        self.registry = CollectorRegistry()
        self.learned = LearnedPolls(PollPrice(), Latencies())
        self.webhooks = Webhooks(PollPolicy(), learned=self.learned)
        metrics = WorkerMetrics(self.registry)
        self.learning = PollLearning(self.learned, PollRate(20.0, self.now_ms), self.now_ms, metrics)

    def now_ms(self) -> int:
        return self.clock[0]

    def take(self, *facts: Message, partition: int = 0) -> None:
        self.learning.took(partition, facts)

    def job(self, number: int, *, webhook: bool = True, webhook_after_ms: int = 1_000) -> None:
        """A response is accepted now, and its end is seen when it has run for `RUN_MS`."""
        name, at = f"resp_{number}", self.clock[0]
        self.take(build.claimed(at, response_id=name, latency_class=LEAF))
        self.clock[0] = at + RUN_MS + webhook_after_ms
        if webhook:
            self.take(build.webhook(at_ms=self.clock[0], response_id=name, ended_at_ms=at + RUN_MS))
        stamps = {"provider_created_at_ms": at, "provider_ended_at_ms": at + RUN_MS}
        self.take(build.observed(self.clock[0], "completed", response_id=name, **stamps))

    def refresh(self) -> None:
        for _ in self.learned.refresh(self.now_ms(), 20.0):
            pass


def test_a_run_time_is_that_of_the_providers_clock() -> None:
    bench = Bench()
    bench.job(1)
    curve = bench.learned.latencies.curve(LEAF, bench.now_ms())
    assert (curve.ends, curve.oldest_end_ms) == (1, value_ms(bucket(RUN_MS)))


def test_without_stamps_the_end_is_in_the_middle_of_the_time_in_which_it_lies() -> None:
    bench = Bench()
    bench.take(build.claimed(T0, latency_class=LEAF))
    bench.take(build.observed(T0 + 20_000, "running"))
    bench.take(build.observed(T0 + 40_000, "failed"))
    assert bench.learned.latencies.curve(ALL, T0).oldest_end_ms == value_ms(bucket(30_000))


def test_a_released_response_leaves_at_the_age_at_which_it_was_last_known_to_run() -> None:
    bench = Bench()
    bench.take(build.claimed(T0, latency_class=LEAF))
    bench.take(build.observed(T0 + 20_000, "running"))
    bench.take(build.released(T0 + 90_000))
    bench.take(build.observed(T0 + 91_000, "cancelled"))
    assert (len(bench.learned.latencies), bench.learned.latencies.curve(ALL, T0).ends) == (0, 0)


def test_an_end_whose_webhook_does_not_come_in_time_is_a_miss_whoever_saw_it_first() -> None:
    bench = Bench()
    for number in range(20):
        bench.job(number, webhook=False)
        bench.take(build.webhook(at_ms=bench.now_ms() + 5_000, response_id=f"resp_{number}"))
    bench.learning.judge(bench.now_ms() + JUDGED_AFTER_MS)
    assert bench.learned.loss.share(None, bench.now_ms()) < 0.01

    for number in range(20, 40):
        bench.job(number, webhook=False)
    bench.learning.judge(bench.now_ms() + JUDGED_AFTER_MS)
    assert bench.learned.loss.share(None, bench.now_ms()) == 1.0


def test_a_webhook_that_is_late_is_a_miss_too() -> None:
    bench = Bench()
    for number in range(20):
        bench.job(number, webhook_after_ms=JUDGED_AFTER_MS + 2_000)
    assert bench.learned.loss.share(None, bench.now_ms()) == 1.0


def test_a_webhook_before_the_claim_counts() -> None:
    bench = Bench()
    for number in range(20):
        name, at = f"resp_{number}", bench.now_ms()
        bench.take(build.webhook(at_ms=at, response_id=name))
        bench.take(build.claimed(at, response_id=name, latency_class=LEAF))
        bench.take(build.observed(at, "completed", response_id=name))
    bench.learning.judge(bench.now_ms() + JUDGED_AFTER_MS)
    assert bench.learned.loss.share(None, bench.now_ms()) < 0.01


def row(accepted_ms: int) -> bytes:
    state = step(AbsentResponse(), build.claimed(accepted_ms, latency_class=LEAF)).state
    return encode_row(RESPONSE_FOLD.encode_state(state), 5)


def test_running_rows_enter_at_their_age_and_leave_with_their_partition() -> None:
    bench = Bench()
    bench.learning.saw(3, [(b"resp_1", row(T0 - 60_000)), (b"resp_2", row(T0 - 5_000))])
    bench.learning.saw(3, [(b"resp_2", None)])
    assert len(bench.learned.latencies) == 1
    opened = bench.learned.latencies.opened("resp_1")
    assert opened is not None
    assert (opened.of, opened.age_ms(T0)) == (LEAF, 60_000)
    bench.learning.own({4})
    assert len(bench.learned.latencies) == 0


def decided(bench: Bench, age_ms: int, **more: Any) -> tuple[int, bool]:
    found = bench.webhooks.next_poll(
        response_id="r", latency_class=LEAF, accepted_at_ms=T0, now_ms=T0 + age_ms, polls=0, **more
    )
    return found.at_ms - T0 - age_ms, found.basis is not None


def test_the_fixed_schedule_decides_until_ten_responses_have_ended() -> None:
    bench = Bench()
    for number in range(ENDS_MIN - 1):
        bench.job(number)
    bench.refresh()
    fixed = Webhooks(PollPolicy()).next_poll(response_id="r", latency_class=LEAF, accepted_at_ms=T0, now_ms=T0, polls=0)
    assert decided(bench, 0) == (fixed.at_ms - T0, False)
    bench.job(ENDS_MIN)
    bench.refresh()
    assert decided(bench, 0)[1]


def test_a_decision_is_stamped_with_what_it_was_made_of() -> None:
    bench = Bench()
    for number in range(300):
        bench.job(number)
    bench.refresh()
    first = bench.webhooks.next_poll(response_id="r", latency_class=LEAF, accepted_at_ms=T0, now_ms=T0, polls=0)
    assert first.basis is not None
    assert (first.basis.latency_class, first.basis.ends, first.basis.price_s) == (LEAF, 300, 0.4)
    assert 0.9 * RUN_MS < first.at_ms - T0 < 2.5 * RUN_MS
    unknown = bench.webhooks.next_poll(response_id="r", latency_class=("new",), accepted_at_ms=T0, now_ms=T0, polls=0)
    assert unknown.basis is not None
    assert unknown.basis.latency_class == ALL


def test_an_early_webhook_makes_polls_come_sooner_with_a_learned_schedule_too() -> None:
    bench = Bench()
    for number in range(50):
        bench.job(number)
    bench.refresh()
    assert decided(bench, 1_000, since_hint=0)[0] <= 1_100


def test_the_schedules_are_computed_in_time_and_shown() -> None:
    bench = Bench()
    for number in range(ENDS_MIN):
        bench.job(number)

    async def once() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(bench.learning.run(stop))
        while bench.learned.outdated(bench.now_ms()) or not bench.learned.plans():
            await asyncio.sleep(0)
        stop.set()
        await running

    asyncio.run(once())
    assert bench.registry.get_sample_value("backstop_latency_ends", {"model": "gpt"}) == ENDS_MIN
    assert bench.registry.get_sample_value("backstop_latency_seconds", {"model": "gpt", "share": "0.5"}) == (
        pytest.approx(40.0, rel=0.01)
    )
    assert bench.registry.get_sample_value("backstop_webhook_loss_share") == pytest.approx(0.008, abs=0.004)
    assert not bench.learned.outdated(bench.now_ms() + REFRESH_MS - 1)
