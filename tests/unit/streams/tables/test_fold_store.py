"""The store of a table on a real disk: read once in small steps when it is opened; not read when it is kept."""

import asyncio
from collections.abc import Collection
from pathlib import Path

import pytest
from faust.types import TP

from streams.faust.app import make_app
from streams.tables.fold_store import FoldStore
from streams.tables.fold_table import FoldTable
from streams.tables.partition_db import CHECK_ROWS, DIGEST_KEY, PartitionDb, StoreLimits, new_cache

ROWS = 5 * CHECK_ROWS + 17
LIMITS = StoreLimits()


class Watch:
    """A watch that records its calls."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[bytes, bytes]] = {}
        self.largest = 0

    def opened(self, partition: int) -> None:
        self.rows[partition] = {}

    def saw(self, partition: int, rows: Collection[tuple[bytes, bytes | None]]) -> None:
        self.largest = max(self.largest, len(rows))
        for key, row in rows:
            if row is None:
                self.rows[partition].pop(key, None)
            else:
                self.rows[partition][key] = row


def opened(folder: Path) -> tuple[FoldStore, Watch, str]:
    table = FoldTable(make_app("app", "localhost:1", folder, now_s=lambda: 0.0), "jobs", 4, row_version=int)
    watch = Watch()
    table.watch(watch)
    return table._store, watch, table.changelog_topic


def fill(store: FoldStore, partition: int) -> dict[bytes, bytes]:
    rows = {b"key-%05d" % number: b"%d" % (number * 7 % ROWS) for number in range(ROWS)}
    db = PartitionDb(store.partition_path(partition), new_cache(LIMITS), LIMITS)
    db.write(rows.items(), 3)
    db.close()
    return rows


async def assign(store: FoldStore, topic: str, *partitions: int) -> int:
    """Returns how often the loop ran meanwhile."""
    turns, done = 0, asyncio.Event()

    async def turn() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    await store.on_rebalance({TP(topic, partition) for partition in partitions}, set(), set())
    done.set()
    await turning
    return turns


@pytest.mark.parametrize("partitions", [(2,), (0, 1, 3)])
def test_all_rows_are_seen_in_small_steps_once(tmp_path: Path, partitions: tuple[int, ...]) -> None:
    store, watch, topic = opened(tmp_path)
    rows = {partition: fill(store, partition) for partition in partitions}

    async def main() -> None:
        assert await assign(store, topic, *partitions) >= len(partitions) * ROWS // CHECK_ROWS
        assert watch.rows == rows
        assert watch.largest == CHECK_ROWS
        newest = max(rows[partitions[0]].items(), key=lambda item: int(item[1]))
        assert all(store.newest[partition] == (int(newest[1]), newest[0]) for partition in partitions)
        watch.rows.clear()
        await assign(store, topic, *partitions)
        assert watch.rows == {}, "a partition that stays was read again"
        await assign(store, topic)
        await assign(store, topic, partitions[0])
        assert watch.rows == {partitions[0]: rows[partitions[0]]}
        await store.on_stop()

    asyncio.run(main())


def test_a_damaged_store_is_found_in_the_walk_and_what_was_seen_of_it_is_forgotten(tmp_path: Path) -> None:
    store, watch, topic = opened(tmp_path)
    fill(store, 0)
    db = PartitionDb(store.partition_path(0), new_cache(LIMITS), LIMITS)
    db._db[DIGEST_KEY] = b"another"
    db.close()

    async def main() -> None:
        await assign(store, topic, 0)
        assert watch.rows == {0: {}}
        assert store.newest[0][0] == -1
        assert store.persisted_offset(TP(topic, 0)) is None
        await store.on_stop()

    asyncio.run(main())
    assert store.partition_path(0).with_name(f"{store.partition_path(0).name}.damaged-1").exists()


def test_chunks_give_each_row_once_in_order(tmp_path: Path) -> None:
    store, _, _ = opened(tmp_path)
    rows = fill(store, 0)
    db = PartitionDb(store.partition_path(0), new_cache(LIMITS), LIMITS)
    found: list[tuple[bytes, bytes]] = []
    while chunk := db.chunk(found[-1][0] if found else None, 100):
        found += chunk
    db.close()
    assert found == sorted(rows.items())
