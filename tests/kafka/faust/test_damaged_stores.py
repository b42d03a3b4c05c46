"""A local store that cannot be trusted is set aside, counted, and made again from the changelog."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from streams.faust.app import EXIT_FAILED
from streams.tables.fold_store import STALE_AFTER_S
from streams.tables.partition_db import PartitionDb, StoreLimits, new_cache
from tests.kafka.faust.scene import Scene, Worker, run


def _no_current(store: Path) -> None:
    (store / "CURRENT").write_bytes(b"MANIFEST-")


def _flipped_bits(store: Path) -> None:
    for file in store.glob("*.sst"):
        data = bytearray(file.read_bytes())
        data[100:108] = bytes(byte ^ 0x10 for byte in data[100:108])
        file.write_bytes(data)


def _ahead(store: Path) -> None:
    db = PartitionDb(store, new_cache(StoreLimits()), StoreLimits())
    db.write((), 1_000_000)
    db.close()


def _old(store: Path) -> None:
    long_ago_s = time.time() - STALE_AFTER_S - 60
    for file in store.iterdir():
        os.utime(file, (long_ago_s, long_ago_s))


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (_no_current, "CURRENT"),
    (_flipped_bits, "checksum"),
    (_ahead, "beyond the changelog's last"),
    (_old, "may miss tombstones"),
]


def test_stores_that_cannot_be_trusted_are_set_aside_and_rebuilt(scene: Scene) -> None:
    run(scene.produce(2_000))
    worker = _handled_to_the_end(scene)
    handled = worker.handled()
    for partition, (damage, _) in enumerate(DAMAGES):
        damage(worker.stores()[partition])
    run(scene.produce(200))
    worker.start()
    scene.wait_committed()
    assert worker.terminate() == 0
    scene.check(worker)
    assert worker.handled() == handled + 200  # what the table had is not folded again
    found = {int(line.split()[1]): line for line in worker.damages()}
    assert sorted(found) == [0, 1, 2, 3]
    assert len(worker.damages()) == 4
    for partition, (_, word) in enumerate(DAMAGES):
        assert word in found[partition]
        assert (worker.folder / f"v1/tables/sums-{partition}.db.damaged-1").is_dir()


def test_a_store_that_another_process_has_open_ends_the_worker_with_a_reason(scene: Scene) -> None:
    run(scene.produce(200))
    worker = _handled_to_the_end(scene)
    other = PartitionDb(worker.stores()[1], new_cache(StoreLimits()), StoreLimits())
    try:
        assert worker.start().wait() == EXIT_FAILED
        assert "give each process its own data folder" in worker.stderr()
        assert worker.damages() == []
    finally:
        other.close()


def _handled_to_the_end(scene: Scene) -> Worker:
    worker = scene.worker("w1").start()
    scene.wait_committed()
    assert worker.terminate() == 0
    return worker
