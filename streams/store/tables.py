"""A fold's table: rows of bytes, a partition of the table for each partition of the log, recovered by Faust from a changelog.

Of Faust we take the assignment (a table's partition always sits with its log's) and the recovery. Writing is ours, because
Faust writes the local store first, never waits for the changelog, and logs a failed changelog record as a warning: here a row is
in the changelog, acknowledged by all in-sync replicas, before it is in the local store, and the caller hears of every failure.
"""

import asyncio
import gc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import faust
from faust.stores.base import Store
from faust.types import TP

from runtime.errors import ConfigurationError, InvariantError
from streams.store.changelog import Changelog
from streams.store.cut import Taken, newest_row
from streams.store.partition_db import (
    PartitionDb,
    StoreDamagedError,
    StoreLimits,
    newest_change_s,
    set_aside,
)

__all__ = ["FoldTable", "PartitionNotOwnedError", "StoreDamagedError", "StoreLimits"]

ROW_BYTES_MAX = 2 * 1024 * 1024
"""Of one changelog record: above the largest record of a log, so that a row that holds one still fits."""
RECOVERY_CHUNKS_MAX = 2
"""How many chunks of a changelog (512 KiB each) Faust gathers before it writes them. Not 1: to Faust that means a global table."""

TOMBSTONE_RETENTION_MS = 7 * 86_400_000
STALE_AFTER_S = 5 * 86_400
"""A local store untouched for longer is rebuilt: the changelog forgets a deletion after `TOMBSTONE_RETENTION_MS`, and a store that
had not yet seen it would keep the row for ever."""

COMPACTION_LAG_MS = 600_000
"""An owner that finds a zombie's row needs the row before it, to write it again: until then compaction must leave both."""

Recovered = Callable[[set[int]], None]
DamageFound = Callable[[str, int, Path, str], None]
"""Called with table, partition, the path it was set aside to, and what was wrong: counted, and logged as an error."""


class PartitionNotOwnedError(InvariantError):
    """A read or write of a partition that is not (or no longer) ours."""


class FoldTable:
    """One table of rows (bytes → bytes), co-partitioned with its log, kept in RocksDB, recovered by Faust from its changelog."""

    def __init__(
        self,
        app: Any,
        name: str,
        partitions: int,
        *,
        limits: StoreLimits | None = None,
        min_insync_replicas: int = 1,
        on_damage: DamageFound | None = None,
        after_changelog: Callable[[], None] | None = None,
        row_version: Callable[[bytes], int] | None = None,
    ) -> None:
        """Declare it before the app starts. The replication factor is the app's.

        :param row_version: a number that never falls from one row of a key to the next. With it, a recovery does not take a row that
            is older than the one before it in the changelog, and a worker that was overtaken does not write over its heir's rows.
        :param after_changelog: called in `write` between the changelog's acknowledgement and the local write, for tests that end
            the process there.
        """
        self.name = name
        self._app = app
        self._after_changelog = after_changelog
        self._row_version = row_version
        self._taken: dict[int, int] = {}
        """Per partition, the newest version of a row of ours; looked for in the store where we have not written yet."""
        self._callbacks: list[Recovered] = []
        self._active: set[int] = set()
        self._table = _Table(
            app,
            name=name,
            partitions=partitions,
            key_type=bytes,
            value_type=bytes,
            recovery_buffer_size=RECOVERY_CHUNKS_MAX,
            extra_topic_configs={
                "min.insync.replicas": min_insync_replicas,
                "delete.retention.ms": TOMBSTONE_RETENTION_MS,
                "min.compaction.lag.ms": COMPACTION_LAG_MS,
                "max.message.bytes": ROW_BYTES_MAX,
            },
        )
        self._table.fold = self
        self._store = _FoldStore(app, self._table, limits or StoreLimits(), on_damage, row_version)
        self._table.use(self._store)
        app.tables.add(self._table)
        self._changelog = Changelog(lambda: self.changelog_topic, app.changelog_producer())
        self._locks: dict[int, asyncio.Lock] = {}

    @property
    def rows_reasserted(self) -> int:
        """Rows that another writer had put into our changelog and that were made good: for metrics."""
        return self._changelog.reasserted

    @property
    def changelog_topic(self) -> str:
        topic: str = self._table.changelog_topic_name
        return topic

    def partitions(self) -> set[int]:
        """The partitions that are ours and recovered. During a rebalance: those before it, until the new assignment."""
        return set(self._active)

    def on_recovered(self, callback: Recovered) -> None:
        """Call `callback` with `partitions()` after each recovery, before records flow again. An exception ends the process."""
        self._callbacks.append(callback)

    def get(self, partition: int, key: bytes) -> bytes | None:
        """:raises PartitionNotOwnedError: not ours. :raises StoreDamagedError: the process must end."""
        return self._owned(partition).get(key)

    def items(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """All rows in key order, as of this call. Errors as `get`."""
        return self._owned(partition).items()

    async def write(self, partition: int, rows: Mapping[bytes, bytes | None], source_offset: int | None = None) -> None:
        """Put rows (None deletes one): the changelog first, every acknowledgement awaited; then the local store, as one batch.

        Raises whatever failed. The caller then ends the process without acknowledging its records: the changelog may have some of
        the rows and the store none, and only a recovery makes them equal again.

        :param source_offset: of the last record that the rows contain; for the message of an error only, rows carry their own.
        """
        if not rows:
            return
        self._owned(partition)
        async with self._lock(partition):
            try:
                offset = await self._changelog.send(partition, rows)
            except Exception as error:
                error.add_note(
                    f"{self.name}: {len(rows)} rows of partition {partition} up to source offset {source_offset}"
                )
                raise
            if self._after_changelog is not None:
                self._after_changelog()
            # Before the store takes the offset: it stands behind somebody else's rows, which no recovery would read again.
            self._took(partition, rows.values())
            await self._make_good(partition, rows)
            # Looked up again: a partition that went away meanwhile must not be written.
            self._owned(partition).write(rows.items(), offset)

    async def watch_changelog(self) -> None:
        """Look for rows that another writer put behind ours, and make them good. To be called now and then."""
        await self._changelog.notice(self.partitions())
        for partition in self.partitions():
            if self._changelog.foreign(partition):
                async with self._lock(partition):
                    await self._make_good(partition, {})

    async def _make_good(self, partition: int, pending: Mapping[bytes, bytes | None]) -> None:
        """`pending`: rows of ours that are in the changelog, and not yet in the store."""
        if not self._changelog.foreign(partition):
            return

        def current(key: bytes) -> bytes | None:
            return pending[key] if key in pending else self._owned(partition).get(key)

        await self._changelog.make_good(
            partition, current, lambda key, row: self._is_ahead(partition, current(key), row)
        )

    def _is_ahead(self, partition: int, ours: bytes | None, row: bytes) -> bool:
        """Whether somebody else's `row` has taken records that we have not; `ours` is of the same key."""
        version_of = self._row_version
        if version_of is None:
            return False
        if ours is not None:
            return version_of(row) > version_of(ours)
        # Gone since, or not yet there? By how far we are in the log.
        if partition not in self._taken:
            self._took(partition, (row for _, row in self._owned(partition).items()))
        return version_of(row) > self._taken.get(partition, -1)

    def taken(self, partition: int) -> Taken:
        """How far it is in its log. To be asked once after each recovery: what was lost is told once. Errors as `get`."""
        newest, key = newest_row(self.items(partition), self._row_version)
        return Taken(newest, key, lost=newest < self._store.newest_lost.pop(partition, -1))

    def _took(self, partition: int, rows: Iterable[bytes | None]) -> None:
        if self._row_version is not None:
            versions = [self._row_version(row) for row in rows if row is not None]
            if versions:
                self._taken[partition] = max(self._taken.get(partition, -1), *versions)

    def _lock(self, partition: int) -> asyncio.Lock:
        return self._locks.setdefault(partition, asyncio.Lock())

    def _owned(self, partition: int) -> PartitionDb:
        db = self._store.dbs.get(partition) if partition in self._active else None
        if db is None:
            raise PartitionNotOwnedError(f"{self.name}: partition {partition} is not ours")
        return db

    # Called by Faust's side of the table, below.

    async def start(self) -> None:
        # Faust has just created the topic, and subscribes next. A topic that the broker does not know yet is left out of the
        # assignment, without an error: the log's partitions would be ours and the table's nobody's.
        partitions = await self._changelog.start()
        if partitions != self._table.partitions:
            raise ConfigurationError(
                f"{self.changelog_topic} has {partitions} partitions, not {self._table.partitions}"
            )

    async def stop(self) -> None:
        await self._changelog.stop()

    def reassigned(self, kept: set[int]) -> None:
        self._active &= kept

    def recovered(self, active: set[int]) -> None:
        self._active = set(active)
        self._taken = {}
        self._store.release()
        self._changelog.own({partition: self._store.next_offset(partition) for partition in active})
        for callback in self._callbacks:
            callback(set(active))


class _Table(faust.Table):  # type: ignore[misc]  # faust is untyped
    """What Faust knows of the table."""

    fold: FoldTable

    def use(self, store: "_FoldStore") -> None:
        self._data = store

    async def on_start(self) -> None:
        await super().on_start()
        await self.fold.start()

    async def on_stop(self) -> None:
        await self.fold.stop()

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        # Faust would swallow what this raises.
        try:
            await super().on_recovery_completed(active_tps, standby_tps)
            self.fold.recovered({tp.partition for tp in active_tps})
        except Exception as error:
            self.app.fail(error)
            raise


class _FoldStore(Store):  # type: ignore[misc]  # faust is untyped
    """The store behind a table: opens and closes partitions as they come and go, and applies chunks of the changelog."""

    def __init__(
        self,
        app: Any,
        table: _Table,
        limits: StoreLimits,
        on_damage: DamageFound | None,
        row_version: Callable[[bytes], int] | None,
    ) -> None:
        super().__init__("rocksdb://", app, table, table_name=table.name, key_serializer="raw", value_serializer="raw")
        self.dbs: dict[int, PartitionDb] = {}
        self.newest_lost: dict[int, int] = {}
        self._held: set[int] = set()
        """Partitions in whose changelog this recovery has met a row older than the one before it."""
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
        """Apply chunks (see `BatchConsumer._recover`). Faust would log an exception as a warning and try again for ever."""
        del to_key, to_value
        try:
            for event in batch:
                message = event.message
                self._apply(message.partition, message.value, message.offset)
        except Exception as error:
            self.app.fail(error)
            raise

    def _apply(self, partition: int, records: Sequence[Any], offset: int) -> None:
        """Without rows that are older than what stands before them: a zombie's (see `changelog`).

        The store's offset then stays before the first of them. So the owner's next write sees the gap, and writes its own rows behind
        them: else they would be the last of their keys, and compaction would remove the newer ones.
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
            elif partition not in self._held:
                self._held.add(partition)
                db.write(taken.items(), record.offset - 1)
                taken = {}
        db.write(taken.items(), None if partition in self._held else offset)

    def release(self) -> None:
        """The recovery is over: the next offset that is written is the store's."""
        self._held.clear()

    def discard(self, partition: int, reason: str) -> None:
        """Set a partition's store aside and begin an empty one. How far in the log it was is kept for `FoldTable.taken`."""
        db = self.dbs.pop(partition, None)
        if db is not None:
            self.newest_lost[partition], _ = newest_row(db.items(), self._row_version)
            db.close()
        self._set_aside(partition, reason)

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
        for partition in sorted(mine):
            self._db(partition)
            await asyncio.sleep(0)  # a scan blocks; let heartbeats through between two

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
        db = self.dbs.get(partition)
        if db is None:
            db = self.dbs[partition] = self._open(partition)
        return db

    def _open(self, partition: int) -> PartitionDb:
        path = self.partition_path(partition)
        changed_s = newest_change_s(path)
        if changed_s is not None and self.app.now_s() - changed_s > STALE_AFTER_S:
            self._set_aside(partition, "older than the changelog's memory of deletions")
        try:
            return PartitionDb(path, self.app.block_cache(self._limits), self._limits)
        except StoreDamagedError as error:
            reason = str(error)
        # Not in the `except`: the error's traceback holds an iterator, that holds the store, and that its lock.
        gc.collect()
        self._set_aside(partition, reason)
        return PartitionDb(path, self.app.block_cache(self._limits), self._limits)

    def _set_aside(self, partition: int, reason: str) -> None:
        path = self.partition_path(partition)
        if not os.path.lexists(path):
            return
        target = set_aside(path)
        self.log.error("%s: set aside as %s and rebuilt from the changelog: %s", path, target, reason)
        if self._on_damage is not None:
            self._on_damage(self.table_name, partition, target, reason)
