"""A worker that lives, sends its heartbeats, and does nothing: it ends itself, and its successor does the work."""

import signal

import pytest

from streams.faust.app import EXIT_FAILED
from tests.kafka.faust.scene import Scene, run
from tests.support.waiting import wait_until

LIMIT_S = 2.0


@pytest.mark.parametrize(
    "how",
    [pytest.param("hang_at", marks=pytest.mark.long), "block_at"],
    ids=["its handler waits for ever", "its event loop stands still"],
)
def test_a_worker_that_is_deaf_ends_itself_and_loses_nothing(scene: Scene, how: str) -> None:
    run(scene.produce(200))
    worker = scene.worker("w1", instance_id="one", batch_records_max=10, watchdog_limit_s=LIMIT_S)
    assert worker.start(**{how: 100}).wait(30) == EXIT_FAILED
    assert "StalledError" in worker.stderr()
    worker.start()
    scene.wait_committed()
    worker.terminate()
    scene.check(worker)


def test_a_worker_that_is_idle_or_was_frozen_lives_on(scene: Scene) -> None:
    run(scene.produce(100))
    worker = scene.worker("w1", instance_id="one", watchdog_limit_s=LIMIT_S).start()
    scene.wait_committed()
    assert worker.process is not None
    worker.process.send_signal(signal.SIGSTOP)
    with pytest.raises(AssertionError):  # frozen for longer than the limit, and then idle for as long
        wait_until(worker.failed, 2 * LIMIT_S)
    worker.process.send_signal(signal.SIGCONT)
    with pytest.raises(AssertionError):
        wait_until(worker.failed, 2 * LIMIT_S)
    run(scene.produce(100))
    scene.wait_committed()
    assert worker.terminate() == 0
    scene.check(worker)
