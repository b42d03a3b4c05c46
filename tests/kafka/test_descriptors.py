"""No file can be opened any more (`RLIMIT_NOFILE`): it is said, nothing spins, nothing is promised that is not kept."""

import asyncio
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from backstop.dev.broker import Owned
from streams.faust.app import EXIT_FAILED
from tests.kafka.test_full_disk import Scene, goes_on, scene
from tests.kafka.test_receiver import make_topics, on_topic, run, running
from tests.support.waiting import eventually, wait_until

__all__ = ["scene"]

FILES_FEW = 64
FILES_TOO_FEW = 12
CPU_SHARE_MAX = 0.3
LISTEN_S = 1.0


def open_files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def cpu_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def only_files(pid: int, count: int) -> Iterator[None]:
    """No more than that for a while. Only the soft limit is lowered, so that the process may raise it again."""
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, usual[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)


@pytest.mark.long
def test_a_worker_that_can_open_no_file_says_so_ends_and_loses_nothing(scene: Scene, tmp_path: Path) -> None:
    log, folder = tmp_path / "worker.log", tmp_path / "data"
    with scene.worker(folder, log) as worker:
        wait_until(lambda: scene.reasons() == {}, 30, "readiness")
        few = open_files(worker.pid) + 3
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (few, few))
        reasons = scene.reasons() or {}
        assert reasons["status"] == "503"
        assert f"more files can be opened; the limit is {few}" in reasons["files"]
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (few - 3, few - 3))
        scene.submit()
        assert worker.wait(60) == EXIT_FAILED
    assert "Too many open files" in log.read_text()
    goes_on(scene, folder, log)


def test_a_worker_that_starts_without_files_says_why_and_waits_or_ends_until_there_are_some(
    scene: Scene, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    with scene.worker(tmp_path / "data", log) as worker:
        with only_files(worker.pid, FILES_TOO_FEW):
            wait_until(lambda: "Too many open files" in log.read_text(), 20, "the reason in its log")
            assert scene.reasons() != {}
            before_s = cpu_s(worker.pid)
            time.sleep(LISTEN_S)  # what is measured is what it does meanwhile
            if worker.poll() is None:
                assert cpu_s(worker.pid) - before_s < CPU_SHARE_MAX * LISTEN_S
        if worker.poll() is None:
            wait_until(lambda: scene.reasons() == {}, 30, "readiness")
            return
        assert worker.returncode == EXIT_FAILED
    with scene.worker(tmp_path / "data", log):
        wait_until(lambda: scene.reasons() == {}, 30, "readiness")


def test_a_receiver_with_few_files_takes_fewer_connections_and_the_longest_silent_make_room(
    broker: Owned, prefix: str, tmp_path: Path
) -> None:
    async def story() -> None:
        await make_topics(broker.bootstrap, prefix)
        under = ("sh", "-c", f'ulimit -n {FILES_FEW} && exec "$@"', "sh")
        async with running(broker.bootstrap, prefix, tmp_path, under=under) as receiver:
            await receiver.works()
            assert "few_open_files" in (tmp_path / "receiver.log").read_text()
            port = int(receiver.url.rpartition(":")[2])
            with ExitStack() as crowd:
                idle = [crowd.enter_context(socket.create_connection(("127.0.0.1", port), 5)) for _ in range(FILES_FEW)]
                assert await asyncio.to_thread(idle[0].recv, 100) == b""
                statuses = [await receiver.submit(f"crowded-{number}") for number in range(5)]
            await receiver.works()
            await eventually(receiver.ready, 20, "readiness")
        promised = {f"crowded-{number}" for number, status in enumerate(statuses) if status == 202}
        assert set(statuses) <= {202, 503, 0}
        assert promised <= {fact.key for fact in await on_topic(broker.bootstrap, prefix, "jobs")}

    run(story())


def test_a_receiver_that_can_open_no_file_promises_nothing_more_and_does_not_spin(
    broker: Owned, prefix: str, tmp_path: Path
) -> None:
    async def story() -> None:
        await make_topics(broker.bootstrap, prefix)
        async with running(broker.bootstrap, prefix, tmp_path) as receiver:
            await receiver.works()
            pid, port = receiver.process.pid, int(receiver.url.rpartition(":")[2])
            with only_files(pid, open_files(pid)), ExitStack() as crowd:
                for _ in range(5):
                    crowd.enter_context(socket.create_connection(("127.0.0.1", port), 5))
                assert await receiver.submit("on-a-connection-that-it-has") == 202
                before_s = cpu_s(pid)
                await asyncio.sleep(LISTEN_S)  # what is measured is what it does meanwhile
                assert cpu_s(pid) - before_s < CPU_SHARE_MAX * LISTEN_S
            await receiver.works()
            await eventually(receiver.ready, 20, "readiness")
        assert "on-a-connection-that-it-has" in {fact.key for fact in await on_topic(broker.bootstrap, prefix, "jobs")}

    run(story())
