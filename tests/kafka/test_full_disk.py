"""A worker with a full disk: `/readyz` says so, it ends before it acknowledges, and with room again nothing is lost."""

import asyncio
import json
import os
import resource
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from backstop.dev.broker import Broker, Owned
from backstop.dev.ports import Ports
from backstop.runtime.kafka.publisher import KafkaPublisher
from backstop.runtime.kafka.topics import create_topics
from backstop.runtime.process.clock import make_clock
from backstop.runtime.process.disk import disk_probe
from backstop.runtime.settings import RuntimeSettings
from schemas.base import InlineBody
from schemas.jobs import JobSubmitted
from streams.faust.app import EXIT_FAILED
from tests.support.builders import POLICY
from tests.support.children import BACKSTOP, child
from tests.support.reading import records_on
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
JOBS = 60
BODY_CHARACTERS = 60_000
DISK_BYTES = 64 << 20


@contextmanager
def small_disk(folder: Path, size_bytes: int = DISK_BYTES) -> Iterator[Path]:
    """A file system of its own."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("this user may not mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Scene:
    def __init__(self, broker: Owned | Broker, prefix: str, folder: Path) -> None:
        self.settings = RuntimeSettings(
            kafka_bootstrap_servers=broker.bootstrap, topic_prefix=prefix, partitions=1, data_dir=folder
        )
        self.ports = Ports()
        self.port = self.ports.draw()
        asyncio.run(create_topics(self.settings))

    @contextmanager
    def worker(self, data_dir: Path, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "KAFKA_BOOTSTRAP_SERVERS": self.settings.kafka_bootstrap_servers,
            "BACKSTOP_TOPIC_PREFIX": self.settings.topic_prefix,
            "BACKSTOP_PARTITIONS": "1",
            "BACKSTOP_DATA_DIR": str(data_dir),
            "BACKSTOP_BLOB_DIR": str(log.parent / "blobs"),
            "BACKSTOP_WORKER_INSTANCE_ID": "one",
            "BACKSTOP_WORKER_SESSION_TIMEOUT_S": "6",
            "BACKSTOP_WORKER_HEARTBEAT_S": "1",
            "BACKSTOP_HEALTH_PORT": str(self.port),
            "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
            "OPENAI_API_KEY": "sk-none",
        }
        with child([*BACKSTOP, "worker"], environment, log) as process:
            yield process

    def reasons(self) -> dict[str, str] | None:
        """What `/readyz` complains of; None without an answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                return dict(json.load(answer)["reasons"])
        except urllib.error.HTTPError as error:
            return {"status": str(error.code), **json.load(error)["reasons"]}
        except OSError:
            return None

    def submit(self) -> None:
        async def send() -> None:
            publisher, now_ms = KafkaPublisher(self.settings, "test"), make_clock()
            await publisher.start()
            try:
                for number in range(JOBS):
                    at_ms = now_ms()
                    await publisher.publish([
                        JobSubmitted(
                            id=f"job_{number}/submitted", at_ms=at_ms, job_id=f"job_{number}", tenant="default",
                            ingress="kafka", model="m",
                            request=InlineBody(value={"model": "m", "input": "x" * BODY_CHARACTERS}),
                            request_sha256=f"{number:064d}", deadline_at_ms=at_ms + 3_600_000, policy=POLICY,
                        )
                    ])  # fmt: skip
            finally:
                await publisher.stop()

        asyncio.run(send())

    def commanded(self) -> set[str]:
        """Jobs whose first command stands on `submissions`."""

        async def read() -> set[str]:
            name = f"{self.settings.topic_prefix}submissions"
            records = await records_on(self.settings.kafka_bootstrap_servers, name, [0])
            return {record.key.decode() for record in records}

        return asyncio.run(read())


@pytest.fixture
def scene(broker: Owned, prefix: str, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(broker, prefix, tmp_path)
    yield scene
    scene.ports.release()


def use_up(disk: Path) -> None:
    """To the last byte; `filler` may be removed again."""
    with (disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(b"x" * 65_536)
    assert os.statvfs(disk).f_bavail == 0


def goes_on(scene: Scene, data_dir: Path, log: Path) -> None:
    """With room again, a worker ends what was acknowledged."""
    with scene.worker(data_dir, log):
        wait_until(lambda: scene.reasons() == {}, 30, "readiness")
        wait_until(lambda: len(scene.commanded()) == JOBS, 30, "a command for each job")
    assert not list(data_dir.rglob("*.damaged-*")), "a full disk is no damaged store"


@pytest.mark.long
def test_a_full_disk_ends_the_worker_and_loses_nothing(scene: Scene, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    with small_disk(tmp_path / "disk") as disk:
        with scene.worker(disk, log) as worker:
            wait_until(lambda: scene.reasons() == {}, 30, "readiness")
            use_up(disk)
            reasons = scene.reasons() or {}
            assert reasons["status"] == "503"
            assert "MiB left" in reasons["disk"]
            scene.submit()
            assert worker.wait(30) == EXIT_FAILED
        assert "No space left" in log.read_text()
        with scene.worker(disk, log):  # started again by its supervisor, and still no room
            wait_until(lambda: "disk" in (scene.reasons() or {}), 30, "a 503 that names the disk")
        (disk / "filler").unlink()
        goes_on(scene, disk, log)


@pytest.mark.slow
@pytest.mark.long
def test_a_file_that_may_not_grow_ends_the_worker_and_loses_nothing(scene: Scene, tmp_path: Path) -> None:
    log, folder = tmp_path / "worker.log", tmp_path / "data"
    with scene.worker(folder, log) as worker:
        wait_until(lambda: scene.reasons() == {}, 30, "readiness")
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (200_000, 200_000))
        scene.submit()
        assert worker.wait(30) == EXIT_FAILED
    assert "File too large" in log.read_text()
    goes_on(scene, folder, log)


def test_the_probe_tells_a_read_only_disk_from_one_with_room(tmp_path: Path) -> None:
    assert disk_probe(tmp_path, free_bytes_min=1)() is None
    assert "MiB left" in (disk_probe(tmp_path, free_bytes_min=1 << 60)() or "")
    assert "No such file" in (disk_probe(tmp_path / "gone")() or "")
    with small_disk(tmp_path / "disk") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert "read-only" in (disk_probe(disk, free_bytes_min=1)() or "")
