"""What may be committed, and when: never beyond a batch that was not acknowledged, and everything that was."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from streams import metrics
from streams.faust.app import EXIT_FAILED, FoldApp, run_app
from tests.kafka.faust.scene import Scene, Worker, key_of, run
from tests.kafka.faust.worker import app_of, declare
from tests.support.waiting import eventually, wait_until


def test_a_batch_that_is_still_in_hand_is_never_committed_over(scene: Scene) -> None:
    """Upstream #606."""
    run(scene.produce(2_000))
    worker = scene.worker("w1", batch_records_max=10, instance_id="one").start(hang_at=0)
    hanging = run(partition_of(scene, 0))
    others = {p: end for p, end in run(scene.ends()).items() if p != hanging}
    wait_until(lambda: {**scene.committed(), hanging: None} == {**others, hanging: None}, 30, "the others' commits")
    assert scene.committed().get(hanging, 0) == 0
    worker.kill()
    worker.start()
    scene.wait_committed()
    worker.terminate()
    scene.check(worker)


def test_a_handler_that_raises_ends_the_process_and_its_batch_comes_again(scene: Scene) -> None:
    """Faust would acknowledge the batch and go on."""
    run(scene.produce(2_000))
    worker = scene.worker("w1", instance_id="one", batch_records_max=10)
    for plain_loop in (True, False):
        assert worker.start(fail_at=1_000, plain_loop=plain_loop).wait() == EXIT_FAILED
        assert "the test's failure at 1000" in worker.stderr()
        partition = run(partition_of(scene, 1_000))
        assert scene.committed().get(partition, 0) <= run(offset_of(scene, 1_000))
    worker.start()
    scene.wait_committed()
    worker.terminate()
    scene.check(worker)


def test_a_row_that_the_changelog_refuses_ends_the_process_and_nothing_of_its_batch_is_committed_or_stored(
    scene: Scene,
) -> None:
    """Faust would log a warning, keep the row on its own disk, and commit."""
    run(scene.produce(200))
    worker = scene.worker("w1", instance_id="one", batch_records_max=10)
    assert worker.start(huge_at=100).wait() == EXIT_FAILED
    assert "MessageSizeTooLarge" in worker.stderr()
    assert scene.committed().get(run(partition_of(scene, 100)), 0) <= run(offset_of(scene, 100))
    assert not any(row.endswith(b" ") for row in worker.table().values())
    worker.start()
    scene.wait_committed()
    worker.terminate()
    scene.check(worker)


@pytest.mark.long
def test_a_handler_that_does_not_end_is_given_up_when_the_worker_stops_and_its_batch_comes_again(scene: Scene) -> None:
    run(scene.produce(200))
    worker = scene.worker("w1", instance_id="one", batch_records_max=10, drain_timeout_s=1.0).start(hang_at=100)
    wait_until(lambda: worker.handled() > 100, 20, "some batches")
    assert worker.terminate() == EXIT_FAILED
    assert scene.committed().get(run(partition_of(scene, 100)), 0) <= run(offset_of(scene, 100))
    worker.start()
    scene.wait_committed()
    worker.terminate()
    scene.check(worker)


def test_records_of_transactions_leave_gaps_that_neither_stall_the_commit_nor_show_aborted_records(
    scene: Scene,
) -> None:
    async def produce() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=scene.bootstrap, transactional_id=f"{scene.prefix}writer")
        await producer.start()
        try:
            for number in range(60):
                await producer.begin_transaction()
                await asyncio.gather(
                    *[await producer.send(scene.topic, b"%d" % n, key_of(n)) for n in range(number * 5, number * 5 + 5)]
                )
                await (producer.abort_transaction() if number % 3 == 1 else producer.commit_transaction())
        finally:
            await producer.stop()

    run(produce())
    worker = scene.worker("w1", batch_records_max=7).start()
    scene.wait_committed()  # up to the end, behind the last marker: a lag of 0
    worker.terminate()
    scene.check(worker)
    assert worker.handled() == 40 * 5


@pytest.mark.long
def test_records_that_expired_unread_do_not_stall_the_worker(scene: Scene) -> None:
    run(scene.produce(2_000))
    worker = scene.worker("w1").start()
    scene.wait_committed()
    worker.terminate()
    run(scene.produce(2_000))
    handled, ends = worker.handled(), run(scene.ends())

    async def expire() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=scene.bootstrap)
        await admin.start()
        try:
            gone = {TopicPartition(scene.topic, p): RecordsToDelete(end - 10) for p, end in ends.items()}
            await admin.delete_records(gone)
        finally:
            await admin.close()

    run(expire())
    worker.start()
    scene.wait_committed()
    worker.terminate()
    assert worker.handled() == handled + 10 * scene.partitions
    assert "instead of the committed offset" in worker.stderr()


def test_a_commit_that_failed_is_made_again(scene: Scene, tmp_path: Path) -> None:
    """Upstream PR 692: Faust would believe that it had committed."""
    asked: list[dict[Any, int]] = []

    async def session(app: FoldApp, stop: asyncio.Event) -> None:
        while not app.started:
            await asyncio.sleep(0.01)
        commit = app.consumer._commit

        async def failing_twice(offsets: dict[Any, int]) -> bool:
            asked.append(dict(offsets))
            return len(asked) > 2 and await commit(offsets)

        app.consumer._commit = failing_twice
        await scene.produce(100)
        ends = {p: end for p, end in (await scene.ends()).items() if end}

        async def all_committed() -> bool:
            return await scene._committed() == ends

        await eventually(all_committed, 20, "the commit after two that failed")
        stop.set()

    run(in_process(scene, tmp_path, session))
    assert len(asked) >= 3
    for tp, offset in asked[0].items():
        assert max(offsets.get(tp, 0) for offsets in asked[2:]) >= offset


def test_a_fetch_that_was_lost_on_the_way_is_read_again_and_not_committed_over(scene: Scene, tmp_path: Path) -> None:
    """Upstream #596: to Faust, what it dropped itself looks like a gap that compaction made, and is acknowledged."""
    run(scene.produce(2_000))
    dropped: list[int] = []
    holes: list[float] = []
    before = metrics.HOLES_CLOSED._value.get()

    async def session(app: FoldApp, stop: asyncio.Event) -> None:
        thread = app.consumer._thread
        chunks = thread.chunks
        enough = asyncio.Event()

        async def losing(timeout_s: float) -> dict[Any, Any]:
            found = await chunks(timeout_s)
            sources = [tp for tp in found if tp.topic == scene.topic and not enough.is_set()]
            dropped.extend(len(found.pop(tp).records) for tp in sources)
            return found

        thread.chunks = losing

        async def all_committed() -> bool:
            return await scene._committed() == {p: end for p, end in (await scene.ends()).items() if end}

        produced = asyncio.create_task(_trickle(scene, enough))
        await eventually(lambda: len(dropped) >= 8, 20, "lost fetches")
        enough.set()
        await produced
        await eventually(all_committed, 20, "the commit of everything")
        holes.append(metrics.HOLES_CLOSED._value.get() - before)
        stop.set()

    run(in_process(scene, tmp_path, session))
    assert sum(dropped) > 0
    assert holes[0] > 0
    scene.check(Worker(replace(scene.worker("w1").config, data_dir=str(tmp_path / "w1"))))


async def _trickle(scene: Scene, enough: asyncio.Event) -> None:
    """Produce until `enough`, and once more: a hole is seen only where a record comes after it."""
    while not enough.is_set():
        await scene.produce(20)
    await scene.produce(200)


async def in_process(
    scene: Scene, folder: Path, session: Callable[[FoldApp, asyncio.Event], Coroutine[Any, Any, None]]
) -> None:
    """Run a worker's app here, beside `session`, which ends it."""
    (folder / "w1").mkdir(exist_ok=True)
    config = replace(scene.worker("w1").config, data_dir=str(folder / "w1"))
    app = app_of(config)
    declare(app, config)
    stop = asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(run_app(app, stop))
        tasks.create_task(session(app, stop))


def test_a_worker_alone_is_asked_to_stop_while_it_starts(scene: Scene) -> None:
    worker = scene.worker("w1").start()
    wait_until((worker.folder / "declared").exists, 20, "the agent's declaration")
    began_s = time.monotonic()
    assert worker.terminate() == 0, worker.stderr()
    assert time.monotonic() - began_s < 10


async def partition_of(scene: Scene, value: int) -> int:
    return next(record.partition for record in await scene.read(scene.topic) if record.value == b"%d" % value)


async def offset_of(scene: Scene, value: int) -> int:
    return next(record.offset for record in await scene.read(scene.topic) if record.value == b"%d" % value)
