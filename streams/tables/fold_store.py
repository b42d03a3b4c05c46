"""The store of a table: opens and closes partitions as they are assigned, and applies chunks of the changelog.

A partition is read once, when it is opened, in steps between which the loop runs. The scheduler's index and the
follower watch these rows and those that recovery changes afterwards, so they need no scan of their own. A watch is not
told of rows written by `FoldTable.write`: the writer tells it. A partition that is kept in a rebalance is not
read.
"""

import asyncio
import gc
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from faust.stores.base import Store
from faust.types import TP

from backstop.runtime.process.clock import monotonic_s
from streams import metrics
from streams.ports import RowWatch
from streams.tables.partition_db import PartitionDb, StoreDamagedError, StoreLimits, mark_damaged, newest_change_s

STALE_AFTER_S = 5 * 86_400
"""A local store unchanged for longer is rebuilt. The changelog drops tombstones after `TOMBSTONE_RETENTION_MS`; a store
that had not yet applied one would keep the row for ever."""

DamageFound = Callable[[str, int, Path, str], None]
"""Called with the table, the partition, the path that the store was moved to, and the reason."""

NONE_TAKEN = (-1, b"")
"""Version and key of the newest row if there are no rows, or none with versions."""


class FoldStore(Store):  # type: ignore[misc]  # faust is untyped
    """Faust's store over one `PartitionDb` per partition; see the module."""

    def __init__(
        self,
        app: Any,
        table: Any,
        limits: StoreLimits,
        on_damage: DamageFound | None,
        row_version: Callable[[bytes], int] | None,
    ) -> None:
        super().__init__("rocksdb://", app, table, table_name=table.name, key_serializer="raw", value_serializer="raw")
        self.dbs: dict[int, PartitionDb] = {}
        self.newest: dict[int, tuple[int, bytes]] = {}
        """Per open partition, version and key of its newest row, which may be deleted since."""
        self.newest_lost: dict[int, int] = {}
        """Per partition, the newest version of a store that was discarded while it was open."""
        self.watches: list[RowWatch] = []
        self._with_stale_rows: set[int] = set()
        """Partitions in whose changelog this recovery met foreign rows; their offset does not move, see `_apply`."""
        self._limits = limits
        self._on_damage = on_damage
        self._row_version = row_version

    def next_offset(self, partition: int) -> int:
        offset = self._db(partition).offset()
        return 0 if offset is None else offset + 1

    def persisted_offset(self, tp: TP) -> int | None:
        return self._db(tp.partition).offset()

    def set_persisted_offset(self, tp: TP, offset: int) -> None:
        self._db(tp.partition).write((), offset)

    async def need_active_standby_for(self, tp: TP) -> bool:
        del tp
        return True

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any, to_value: Any) -> None:
        """Apply chunks (see `BatchConsumer._recover`). A failure ends the process: Faust would retry it for ever."""
        del to_key, to_value
        try:
            for event in batch:
                message = event.message
                self._apply(message.partition, message.value, message.offset)
        except Exception as error:
            self.app.fail(error)
            raise

    def _apply(self, partition: int, records: Sequence[Any], offset: int) -> None:
        """Apply a chunk, except foreign rows: those older than an earlier row of their key (see `changelog`).

        The store's offset stays before the first foreign row. So the owner's next write detects the gap and writes its
        rows again. Otherwise the foreign rows would be the last of their keys, and compaction would remove the newer
        ones.
        """
        db, version_of = self._db(partition), self._row_version
        taken: dict[bytes, bytes | None] = {}
        for record in records:
            key, row = record.key, record.value
            if key is None:
                continue
            before = taken[key] if key in taken else db.get(key)
            if version_of is None or row is None or before is None or version_of(row) >= version_of(before):
                taken[key] = row
            elif partition not in self._with_stale_rows:
                self._with_stale_rows.add(partition)
                db.write(taken.items(), record.offset - 1)
                self._saw(partition, taken.items())
                taken = {}
        db.write(taken.items(), None if partition in self._with_stale_rows else offset)
        self._saw(partition, taken.items())

    def release(self) -> None:
        """The recovery is over: the next write sets the store's offset again."""
        self._with_stale_rows.clear()

    def discard(self, partition: int, reason: str) -> None:
        """Move a partition's store aside; the next use opens an empty one. `newest_lost` keeps its newest version."""
        db = self.dbs.pop(partition, None)
        if db is not None:
            self.newest_lost[partition], _ = self.newest[partition]
            db.close()
        self._mark_damaged(partition, reason)

    def reset_state(self) -> None:
        for partition in list(self.dbs):
            self.discard(partition, "reset")

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        del revoked, newly_assigned, generation_id
        mine = {tp.partition for tp in assigned if tp.topic == self.table.changelog_topic_name}
        self.table.fold.reassigned(mine)
        for partition in set(self.dbs) - mine:
            self.dbs.pop(partition).close()
        for partition in sorted(mine - self.dbs.keys()):
            for _step in self._opening(partition):
                await asyncio.sleep(0)  # Let heartbeats and other tasks run.

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        del active_tps, standby_tps

    async def backup_partition(self, tp: Any, flush: bool = True, purge: bool = False, keep: int = 1) -> None:
        raise NotImplementedError

    def restore_backup(self, tp: Any, latest: bool = True, backup_id: int = 0) -> None:
        raise NotImplementedError

    async def on_stop(self) -> None:
        for db in self.dbs.values():
            db.close()
        self.dbs.clear()

    def partition_path(self, partition: int) -> Path:
        return Path(self.app.conf.tabledir) / f"{self.table_name}-{partition}.db"

    def _db(self, partition: int) -> PartitionDb:
        if partition not in self.dbs:
            for _step in self._opening(partition):
                pass
        return self.dbs[partition]

    def _opening(self, partition: int) -> Iterator[None]:
        """Open and check a partition in steps; after the last step it is in `dbs`. A damaged store is rebuilt."""
        path = self.partition_path(partition)
        changed_s = newest_change_s(path)
        if changed_s is not None and self.app.now_s() - changed_s > STALE_AFTER_S:
            self._mark_damaged(
                partition, f"unchanged for {STALE_AFTER_S} s, so it may miss tombstones that have expired"
            )
        reason = ""
        try:
            yield from self._checking(partition)
        except StoreDamagedError as error:
            reason = str(error)
        if reason:
            # Not in the `except`: the error's traceback refers to an iterator, which keeps the store open and locked.
            gc.collect()
            self._mark_damaged(partition, reason)
            yield from self._checking(partition)

    def _checking(self, partition: int) -> Iterator[None]:
        began_s = monotonic_s()
        db = PartitionDb(
            self.partition_path(partition), self.app.block_cache(self._limits), self._limits, checked=False
        )
        try:
            self._begin(partition)
            for rows in db.checking():
                self._saw(partition, rows)
                yield
        except BaseException:
            db.close()
            raise
        self.dbs[partition] = db
        metrics.RECOVERY_SECONDS.observe(monotonic_s() - began_s)

    def _begin(self, partition: int) -> None:
        self.newest[partition] = NONE_TAKEN
        for watch in self.watches:
            watch.opened(partition)

    def _saw(self, partition: int, rows: Collection[tuple[bytes, bytes | None]]) -> None:
        self.took(partition, rows)
        for watch in self.watches:
            watch.saw(partition, rows)

    def took(self, partition: int, rows: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Note the newest version among rows that the partition has, or is about to have."""
        version_of = self._row_version
        if version_of is None:
            return
        newest = self.newest.get(partition, NONE_TAKEN)
        for key, row in rows:
            if row is not None and (version := version_of(row)) > newest[0]:
                newest = (version, key)
        self.newest[partition] = newest

    def _mark_damaged(self, partition: int, reason: str) -> None:
        path = self.partition_path(partition)
        if not os.path.lexists(path):
            return
        target = mark_damaged(path)
        self.log.error("%s: kept as %s and rebuilt from the changelog: %s", path, target, reason)
        if self._on_damage is not None:
            self._on_damage(self.table_name, partition, target, reason)
