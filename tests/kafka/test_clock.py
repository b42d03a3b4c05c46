"""Machines whose clocks are an hour wrong: what they stamp is the broker's time."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from backstop.dev.broker import Owned
from backstop.dev.system import Shape, running_system
from backstop.dev.upstream import RequestWriter, ResultReader
from backstop.runtime.kafka.broker_clock import SLEW_MS_MAX, BrokerClock
from backstop.runtime.kafka.publisher import KafkaPublisher
from backstop.runtime.kafka.topics import create_topics
from backstop.runtime.process.clock import make_clock
from backstop.runtime.settings import RuntimeSettings
from schemas.requests import Submit

HOUR_MS = 3_600_000


@pytest.mark.parametrize("offset_ms", [HOUR_MS, -HOUR_MS])
def test_a_clock_that_is_an_hour_wrong_follows_the_brokers(broker: Owned, prefix: str, offset_ms: int) -> None:
    settings = RuntimeSettings(kafka_bootstrap_servers=broker.bootstrap, topic_prefix=prefix, partitions=1)

    async def scenario() -> tuple[int, int]:
        await create_topics(settings)
        publisher = KafkaPublisher(settings, "test")
        await publisher.start()
        wrong, right = BrokerClock(make_clock(offset_ms), publisher), BrokerClock(make_clock(), publisher)
        await wrong.first()
        await right.first()
        await publisher.stop()
        return wrong.now_ms() - right.now_ms(), wrong.skew_ms

    difference_ms, skew_ms = asyncio.run(scenario())
    assert abs(difference_ms) < 1_000
    assert abs(skew_ms + offset_ms) < 1_000


@pytest.mark.parametrize("step_ms", [HOUR_MS, -HOUR_MS])
def test_a_step_of_the_wall_clock_moves_nothing_in_a_process_that_runs(
    monkeypatch: pytest.MonkeyPatch, step_ms: int
) -> None:
    clock = make_clock()
    before_ms = clock()
    wall_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: wall_ns() + step_ms * 1_000_000)
    assert 0 <= clock() - before_ms < 10_000
    assert abs(make_clock()() - before_ms - step_ms) < 10_000, "a new process would see it"


def test_after_the_first_answer_the_clock_is_moved_a_little_at_a_time() -> None:
    class Jumping:
        answers = iter([10_000, 10_000 + HOUR_MS, 10_000 + HOUR_MS])

        async def broker_time_ms(self) -> int:
            return next(self.answers)

    async def scenario() -> list[int]:
        clock = BrokerClock(lambda: 0, Jumping())
        seen: list[int] = []
        for _ in range(3):
            await clock.ask()
            seen.append(clock.now_ms())
        return seen

    assert asyncio.run(scenario()) == [10_000, 10_000 + SLEW_MS_MAX, 10_000 + 2 * SLEW_MS_MAX]


@pytest.mark.timeout(150)
@pytest.mark.parametrize("offset_ms", [HOUR_MS, -HOUR_MS])
@pytest.mark.long
def test_a_job_of_twenty_minutes_is_neither_expired_nor_kept_waiting_by_a_worker_with_a_wrong_clock(
    broker: Owned, tmp_path: Path, offset_ms: int
) -> None:
    """The worker (and the receiver) start with clocks that are an hour off; the job's deadline is by the broker's."""
    wrong = {"BACKSTOP_CLOCK_OFFSET_MS": str(offset_ms), "BACKSTOP_FAILPOINTS": "results.begun:999999=kill"}
    shape = Shape(
        folder=tmp_path,
        environment={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap},
        settings=wrong,
        port=0,
        time_scale=20.0,
    )

    async def scenario() -> tuple[str, int]:
        async with running_system(shape, lambda _text: None, lambda _kill: None) as system:
            reader, writer = ResultReader(system.runtime), RequestWriter(system.runtime)
            await reader.start(from_beginning=True)
            await writer.start()
            try:
                await writer.send(Submit(job_id="j1", request={"model": "m", "input": "x"}, timeout_ms=20 * 60_000))
                async with asyncio.timeout(60):
                    async for result in reader.read():
                        return result.outcome, result.at_ms
            finally:
                await reader.stop()
                await writer.stop()
        raise AssertionError("no result")

    outcome, at_ms = asyncio.run(scenario())
    assert outcome == "completed"
    assert abs(at_ms - time.time() * 1000) < 30_000
