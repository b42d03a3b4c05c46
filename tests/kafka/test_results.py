"""The publisher of results on a real broker: one record a job for a read_committed consumer, after any failure."""

import asyncio
import multiprocessing
from collections.abc import Sequence

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError

from backstop.runtime.kafka.client import client_options
from backstop.runtime.kafka.fences import FencedRecord, Writer
from backstop.runtime.process.clock import make_clock
from backstop.runtime.settings import RuntimeSettings
from schemas.codec import encode
from schemas.results import JobResult, Timings
from schemas.statuses import JobOutcome
from streams.results import ResultsFencedError, ResultsPublisher
from tests.support.reading import records_on

PARTITION = 0


def result(job_id: str, outcome: JobOutcome = "completed", submitted_at_ms: int = 1) -> JobResult:
    timings = Timings(submitted_at_ms=submitted_at_ms, finished_at_ms=2)
    return JobResult(id=f"{job_id}/result", at_ms=2, job_id=job_id, tenant="default", outcome=outcome, timings=timings)


def owner(settings: RuntimeSettings) -> ResultsPublisher:
    """As of a worker to which the partition was assigned."""
    publisher = ResultsPublisher(settings, make_clock())
    publisher.reassigned({PARTITION})
    return publisher


async def published(settings: RuntimeSettings, isolation: str = "read_committed") -> list[str]:
    """Job ids on the partition, in order."""
    topic = f"{settings.topic_prefix}results"
    records = await records_on(settings.kafka_bootstrap_servers, topic, [PARTITION], isolation)
    return [record.key.decode() for record in records]


async def publish(settings: RuntimeSettings, results: Sequence[JobResult]) -> None:
    """As a worker that has just started and ends at once."""
    publisher = owner(settings)
    try:
        await publisher.publish(PARTITION, results)
    finally:
        await publisher.stop()


def test_a_repeat_within_one_worker_is_held_back(settings: RuntimeSettings) -> None:
    async def scenario() -> list[str]:
        publisher = owner(settings)
        await publisher.publish(PARTITION, [result("a"), result("b")])
        await publisher.publish(PARTITION, [result("b"), result("c")])
        await publisher.stop()
        return await published(settings)

    assert asyncio.run(scenario()) == ["a", "b", "c"]


def test_a_repeat_by_the_next_owner_is_held_back_by_the_tail(settings: RuntimeSettings) -> None:
    async def scenario() -> list[str]:
        await publish(settings, [result("a"), result("b")])
        await publish(settings, [result("b"), result("a"), result("c")])
        return await published(settings)

    assert asyncio.run(scenario()) == ["a", "b", "c"]


def test_an_older_owner_is_refused_and_what_it_held_is_published_once_by_the_newer(settings: RuntimeSettings) -> None:
    async def scenario() -> list[str]:
        older, newer = owner(settings), owner(settings)
        await older.publish(PARTITION, [result("a")])
        await newer.publish(PARTITION, [result("b")])
        with pytest.raises(ResultsFencedError):
            await older.publish(PARTITION, [result("c")])
        await newer.publish(PARTITION, [result("c")])
        await older.stop()
        await newer.stop()
        return await published(settings)

    assert asyncio.run(scenario()) == ["a", "b", "c"]


def test_an_owner_that_lost_its_partition_does_not_come_back_by_opening_its_lane_again(
    settings: RuntimeSettings,
) -> None:
    async def scenario() -> list[str]:
        older, newer = owner(settings), owner(settings)
        await older.publish(PARTITION, [result("a")])
        await newer.publish(PARTITION, [])  # its lane is open, and it has written nothing
        older._lanes.clear()  # as after an append whose outcome is unknown
        with pytest.raises(ResultsFencedError):
            await older.publish(PARTITION, [result("b")])
        await newer.publish(PARTITION, [result("b")])
        await older.stop()
        await newer.stop()
        return await published(settings)

    assert asyncio.run(scenario()) == ["a", "b"]


def test_an_append_whose_outcome_is_unknown_is_found_in_the_tail(settings: RuntimeSettings) -> None:
    async def scenario() -> list[str]:
        publisher = owner(settings)
        await publisher.publish(PARTITION, [result("a")])
        lane = publisher._lanes[PARTITION]
        lane.writer = _Unheard(lane.writer)
        await publisher.publish(PARTITION, [result("b"), result("c")])
        await publisher.stop()
        return await published(settings)

    assert asyncio.run(scenario()) == ["a", "b", "c"]


class _Unheard:
    """A writer that appends, and does not say so."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.fence = writer.fence

    async def end(self) -> int:
        return await self._writer.end()

    async def append(self, entries: Sequence[FencedRecord]) -> None:
        await self._writer.append(entries)
        raise KafkaTimeoutError


def test_the_tail_waits_for_an_open_transaction_of_a_stranger(settings: RuntimeSettings) -> None:
    """What was published behind its first record can't be read before it ends."""

    async def scenario() -> list[str]:
        topic = f"{settings.topic_prefix}results"
        stranger = AIOKafkaProducer(**client_options(settings), transactional_id=f"{topic}-stranger")
        await stranger.start()
        first = owner(settings)
        await first.publish(PARTITION, [result("a")])
        await stranger.begin_transaction()
        await stranger.send_and_wait(topic, b"{}", b"strange", partition=PARTITION)
        await first.publish(PARTITION, [result("b")])
        await first.stop()
        repeated = asyncio.create_task(publish(settings, [result("b")]))
        waited, _ = await asyncio.wait({repeated}, timeout=2)
        assert not waited
        await stranger.abort_transaction()
        await repeated
        await stranger.stop()
        return await published(settings)

    assert asyncio.run(scenario()) == ["a", "b"]


ROUNDS = 3
RESULTS = 200


async def publish_all(settings: RuntimeSettings) -> None:
    """As a worker without rows: each start publishes everything again, one by one."""
    publisher = owner(settings)
    for number in range(RESULTS):
        await publisher.publish(PARTITION, [result(f"j{number}")])
    await publisher.stop()


@pytest.mark.timeout(300)
def test_each_result_is_there_once_after_kills_at_any_moment(settings: RuntimeSettings) -> None:
    spawn = multiprocessing.get_context("spawn")
    for round_ in range(ROUNDS):
        child = spawn.Process(target=_run, args=(settings.kafka_bootstrap_servers, settings.topic_prefix), daemon=True)
        child.start()
        if round_ < ROUNDS - 1:
            while child.is_alive() and len(asyncio.run(published(settings))) <= round_ * 50:
                child.join(0.1)
            child.kill()
        child.join()
    assert child.exitcode == 0
    assert asyncio.run(published(settings, "read_uncommitted")) == [f"j{number}" for number in range(RESULTS)]


def _run(bootstrap: str, prefix: str) -> None:
    asyncio.run(publish_all(RuntimeSettings(kafka_bootstrap_servers=bootstrap, topic_prefix=prefix, partitions=2)))


def test_what_a_killed_owner_left_uncommitted_is_never_seen_and_is_published_again(settings: RuntimeSettings) -> None:
    async def scenario() -> tuple[list[str], list[str]]:
        topic = f"{settings.topic_prefix}results"
        killed = AIOKafkaProducer(**client_options(settings), transactional_id=f"{topic}-{PARTITION}")
        await killed.start()
        await killed.begin_transaction()
        await killed.send_and_wait(topic, encode(result("a")), b"a", partition=PARTITION)
        await publish(settings, [result("a")])
        await killed.stop()
        return await published(settings), await published(settings, "read_uncommitted")

    committed, uncommitted = asyncio.run(scenario())
    assert committed == ["a"]
    assert uncommitted == ["a", "a"]


def test_after_a_rebalance_the_lane_is_opened_anew_and_sees_what_another_owner_published(
    settings: RuntimeSettings,
) -> None:
    async def scenario() -> list[str]:
        first = owner(settings)
        await first.publish(PARTITION, [result("a")])
        await publish(settings, [result("b")])  # the partition was another worker's meanwhile
        first.reassigned({PARTITION})
        await first.publish(PARTITION, [result("b"), result("c")])
        await first.stop()
        return await published(settings)

    assert asyncio.run(scenario()) == ["a", "b", "c"]


def test_a_partition_that_was_lost_is_not_opened_again(settings: RuntimeSettings) -> None:
    async def scenario() -> list[str]:
        first, second = owner(settings), owner(settings)
        await first.publish(PARTITION, [result("a")])
        await second.publish(PARTITION, [result("b")])
        first.reassigned({1})
        with pytest.raises(ResultsFencedError, match="does not own partition 0"):
            await first.publish(PARTITION, [result("c")])
        await second.publish(PARTITION, [result("c")])  # its writer is still the newest
        await first.stop()
        await second.stop()
        return await published(settings)

    assert asyncio.run(scenario()) == ["a", "b", "c"]


def test_a_job_id_that_is_used_again_after_its_job_was_forgotten_has_a_result_of_its_own(
    settings: RuntimeSettings,
) -> None:
    async def scenario() -> list[str]:
        await publish(settings, [result("a", submitted_at_ms=1)])
        await publish(settings, [result("a", submitted_at_ms=9)])
        return await published(settings)

    assert asyncio.run(scenario()) == ["a", "a"]


def test_tombstones_and_foreign_bytes_on_the_topic_do_not_stop_the_tail(settings: RuntimeSettings) -> None:
    async def scenario() -> list[str]:
        topic = f"{settings.topic_prefix}results"
        plain = AIOKafkaProducer(**client_options(settings))
        await plain.start()
        await plain.send_and_wait(topic, None, b"x", partition=PARTITION)
        await plain.send_and_wait(topic, b"not json", b"y", partition=PARTITION)
        await plain.stop()
        await publish(settings, [result("a")])
        return await published(settings)

    assert asyncio.run(scenario()) == ["x", "y", "a"]
