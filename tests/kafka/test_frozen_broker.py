"""A broker that stands still while jobs are on their way: each process waits or ends, and goes on with it.

`BACKSTOP_TEST_FREEZE_S=125` freezes it for longer than each timeout that there is: sessions (6 s here),
the watchdog (12 s), a producer's send (30 s), an append to results (30 s). By default it is longer than a session.
"""

import os
import threading
import time
from pathlib import Path

import pytest

from backstop.dev.broker import Broker, LocalKafka
from backstop.runtime.errors import BrokerUnavailableError
from streams.faust.app import EXIT_FAILED
from tests.kafka.test_full_disk import JOBS, Scene, goes_on
from tests.support.waiting import wait_until

FREEZE_S = float(os.environ.get("BACKSTOP_TEST_FREEZE_S", "7"))
AGAIN_WITHIN_S = 60


def _submit_until_taken(scene: Scene) -> None:
    """As a submitting service does it: the same jobs again until they are acknowledged."""
    while True:
        try:
            scene.submit()
        except BrokerUnavailableError:
            continue
        return


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_whoever_waited_for_a_frozen_broker_goes_on_and_nothing_is_lost(
    local_kafka: LocalKafka, prefix: str, tmp_path: Path
) -> None:
    folder, log = tmp_path / "data", tmp_path / "worker.log"
    with Broker(local_kafka) as broker:
        scene = Scene(broker, prefix, tmp_path)
        upstream = threading.Thread(target=_submit_until_taken, args=(scene,))
        with scene.worker(folder, log) as worker:
            wait_until(lambda: scene.reasons() == {}, 30, "readiness")
            upstream.start()
            wait_until(lambda: len(scene.commanded()) > 0, 20, "the first of many jobs")
            broker.pause()
            time.sleep(FREEZE_S)  # it stands still for so long
            broker.resume()
            upstream.join(AGAIN_WITHIN_S)
            assert not upstream.is_alive()
            wait_until(
                lambda: worker.poll() is not None or scene.reasons() == {}, AGAIN_WITHIN_S, "its readiness or end"
            )
            lives = worker.poll() is None
            if lives:
                wait_until(lambda: len(scene.commanded()) == JOBS, AGAIN_WITHIN_S, "a command for each job")
        if not lives:
            assert worker.returncode == EXIT_FAILED
            goes_on(scene, folder, log)
        scene.ports.release()
