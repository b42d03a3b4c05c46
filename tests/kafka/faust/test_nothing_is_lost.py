"""Records under a backlog and a slow agent, while workers join, leave, die and come back: stock Faust loses
hundreds (upstream #596).

`BACKSTOP_FAUST_ROUNDS` (default 3) is the number of joins, leaves, restarts; the record count grows with it.
"""

import os
import shutil

import pytest

from tests.kafka.faust.scene import Scene, run
from tests.support.waiting import wait_until

ROUNDS = int(os.environ.get("BACKSTOP_FAUST_ROUNDS", "3"))
RECORDS = 800 * (ROUNDS + 1)
SLOW = {"record_delay_ms": 4.0, "batch_records_max": 20}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + 30 * ROUNDS)]


@pytest.mark.long
def test_workers_that_join_and_leave_under_a_backlog_lose_nothing_and_repeat_nothing(scene: Scene) -> None:
    run(scene.produce(RECORDS))
    first = scene.worker("w1", **SLOW).start()
    first.wait_recovered(0)
    for number in range(ROUNDS):
        other, before = scene.worker(f"other{number}", **SLOW).start(), first.recoveries()
        other.wait_recovered(0)
        first.wait_recovered(before)
        before = first.recoveries()
        assert other.terminate() == 0, other.stderr()
        first.wait_recovered(before)
    scene.wait_committed()
    assert first.terminate() == 0, first.stderr()
    scene.check(first)
    # Each leave and each join committed what was in hand before it gave up its partitions.
    assert sum(worker.handled() for worker in scene.workers) == RECORDS


@pytest.mark.long
def test_a_worker_that_is_asked_to_stop_and_started_again_loses_nothing_and_repeats_nothing(scene: Scene) -> None:
    run(scene.produce(RECORDS))
    worker = scene.worker("w1", **SLOW)
    for number in range(ROUNDS):
        worker.start()
        worker.wait_recovered(number)
        assert worker.terminate() == 0, worker.stderr()
    worker.start()
    scene.wait_committed()
    assert worker.terminate() == 0
    scene.check(worker)
    assert worker.handled() == RECORDS


def test_a_worker_that_is_killed_and_started_again_as_the_same_member_loses_nothing(scene: Scene) -> None:
    run(scene.produce(RECORDS))
    # A member of a fixed name takes its own place at once, while the broker still believes in the dead one.
    worker = scene.worker("w1", instance_id="one", session_timeout_s=30.0, **SLOW)
    for number in range(ROUNDS):
        handled = worker.handled()
        worker.start()
        worker.wait_recovered(number)
        wait_until(lambda seen=handled: worker.handled() > seen + 40, 20, "some batches")  # type: ignore[misc]
        worker.kill()
    worker.start()
    scene.wait_committed()
    assert worker.terminate() == 0
    scene.check(worker)


@pytest.mark.long
def test_a_worker_whose_disk_was_lost_has_its_table_back_from_the_changelog_and_handles_no_record_again(
    scene: Scene,
) -> None:
    run(scene.produce(RECORDS))
    worker = scene.worker("w1").start()
    scene.wait_committed()
    assert worker.terminate() == 0
    handled = worker.handled()
    for path in worker.stores().values():
        shutil.rmtree(path)
    run(scene.produce(100))
    worker.start()
    scene.wait_committed()
    assert worker.terminate() == 0
    scene.check(worker)
    assert worker.handled() == handled + 100


@pytest.mark.long
def test_a_plain_loop_over_events_loses_nothing_when_workers_join_and_leave(scene: Scene) -> None:
    run(scene.produce(RECORDS // 2))
    first = scene.worker("w1", plain_loop=True, **SLOW).start()
    first.wait_recovered(0)
    other, before = scene.worker("w2", plain_loop=True, **SLOW).start(), first.recoveries()
    other.wait_recovered(0)
    first.wait_recovered(before)
    before = first.recoveries()
    assert other.terminate() == 0
    first.wait_recovered(before)
    scene.wait_committed()
    assert first.terminate() == 0
    scene.check(first)
    assert first.handled() + other.handled() == RECORDS // 2
