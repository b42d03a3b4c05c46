"""Rows that a worker which no longer owns the partition puts into the changelog: a zombie's last batch."""

import signal

import pytest
from aiokafka import AIOKafkaProducer

from streams.faust.app import EXIT_FAILED
from tests.kafka.faust.scene import Scene, refold, run
from tests.support.waiting import wait_until

RECORDS = 400


async def _write_old_rows(scene: Scene) -> int:
    """As a zombie would: for every key the row that it had after its first record. Returns how many."""
    first: dict[bytes, tuple[int, bytes]] = {}
    for record in await scene.read(scene.changelog):
        first.setdefault(record.key, (record.partition, record.value))
    producer = AIOKafkaProducer(bootstrap_servers=scene.bootstrap)
    await producer.start()
    try:
        for key, (partition, row) in first.items():
            await producer.send_and_wait(scene.changelog, row, key, partition=partition)
    finally:
        await producer.stop()
    return len(first)


def _latest(scene: Scene) -> dict[bytes, bytes]:
    return {record.key: record.value for record in run(scene.read(scene.changelog))}


def _expected(scene: Scene) -> dict[bytes, bytes]:
    return refold(run(scene.read(scene.topic)))


def test_the_owner_notices_the_old_rows_with_its_next_write_and_writes_its_own_behind_them(scene: Scene) -> None:
    for _ in range(4):
        run(scene.produce(RECORDS // 4))  # several batches, so that first and last rows differ
        worker = scene.workers[0] if scene.workers else scene.worker("w1", batch_records_max=20).start()
        scene.wait_committed()
    assert run(_write_old_rows(scene)) > 10
    assert _latest(scene) != _expected(scene)
    run(scene.produce(97))
    scene.wait_committed()
    assert worker.terminate() == 0
    scene.check(worker)


@pytest.mark.long
def test_the_owner_of_an_idle_partition_notices_them_too(scene: Scene) -> None:
    worker = scene.worker("w1", batch_records_max=20, watch_every_s=0.2).start()
    for _ in range(4):
        run(scene.produce(RECORDS // 4))
        scene.wait_committed()
    run(_write_old_rows(scene))
    wait_until(lambda: _latest(scene) == _expected(scene), 20, "the owner's rows behind the zombie's")
    assert worker.terminate() == 0
    scene.check(worker)


@pytest.mark.long
def test_a_recovery_takes_no_row_that_is_older_than_the_one_before_it(scene: Scene) -> None:
    worker = scene.worker("w1", batch_records_max=20).start()
    for _ in range(4):
        run(scene.produce(RECORDS // 4))
        scene.wait_committed()
    assert worker.terminate() == 0
    run(_write_old_rows(scene))
    other = scene.worker("w2").start()  # no local store: everything comes from the changelog
    other.wait_recovered(0)
    assert other.terminate() == 0
    assert other.table() == _expected(scene)


def test_a_worker_that_wakes_up_writes_nothing_over_the_rows_of_its_successor(scene: Scene) -> None:
    zombie = scene.worker("w1", batch_records_max=20, watch_every_s=0.2).start()
    run(scene.produce(40))
    scene.wait_committed()
    assert zombie.process is not None
    zombie.process.send_signal(signal.SIGSTOP)
    successor = scene.worker("w2", batch_records_max=20).start()
    successor.wait_recovered(0)
    run(scene.produce(RECORDS))  # newer rows of old keys, and rows of keys that the zombie has never heard of
    scene.wait_committed()
    # Its watch of the changelog may come before it hears of its lost partitions, or after: both must be harmless.
    zombie.process.send_signal(signal.SIGCONT)
    zombie_ended = wait_until(
        lambda: zombie.process is not None and (zombie.process.poll() is not None or zombie.recoveries() > 1),
        30, "the zombie to find out",
    )  # fmt: skip
    assert zombie_ended
    run(scene.produce(50))
    wait_until(lambda: _latest(scene) == _expected(scene), 30, "the rows of the successor")
    assert zombie.process.poll() in (None, EXIT_FAILED)
    if zombie.process.poll() is None:
        assert zombie.terminate() == 0
    assert successor.terminate() == 0
    assert _latest(scene) == _expected(scene)
