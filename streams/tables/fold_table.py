"""A fold's table: rows of bytes, a partition of the table for each partition of the log, recovered by Faust from a changelog.

Of Faust we take the assignment (a table's partition always sits with its log's) and the recovery. Writing is ours, because
Faust writes the local store first, never waits for the changelog, and logs a failed changelog record as a warning: here a row is
in the changelog, acknowledged by all in-sync replicas, before it is in the local store, and the caller hears of every failure.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import faust
from faust.types import TP

from backstop.runtime.errors import ConfigurationError, InvariantError
from streams.ports import RowWatch
from streams.tables.changelog import Changelog
from streams.tables.fold_store import NONE_TAKEN, DamageFound, FoldStore
from streams.tables.lost_tail import Taken
from streams.tables.partition_db import PartitionDb, StoreDamagedError, StoreLimits

__all__ = ["FoldTable", "PartitionNotOwnedError", "StoreDamagedError", "StoreLimits"]

ROW_BYTES_MAX = 2 * 1024 * 1024
"""Of one changelog record: above the largest record of a log, so that a row that holds one still fits."""
RECOVERY_CHUNKS_MAX = 2
"""How many chunks of a changelog (512 KiB each) Faust gathers before it writes them. Not 1: to Faust that means a global table."""

TOMBSTONE_RETENTION_MS = 7 * 86_400_000

COMPACTION_LAG_MS = 600_000
"""An owner that finds a zombie's row needs the row before it, to write it again: until then compaction must leave both."""

Recovered = Callable[[set[int]], None]


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
        self._store = FoldStore(app, self._table, limits or StoreLimits(), on_damage, row_version)
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

    def watch(self, watch: RowWatch) -> None:
        """Tell `watch` of all rows that this process holds, before `on_recovered` does: declared before the app starts."""
        self._store.watches.append(watch)

    def on_recovered(self, callback: Recovered) -> None:
        """Call `callback` with `partitions()` after each recovery, before records flow again. An exception ends the process."""
        self._callbacks.append(callback)

    def get(self, partition: int, key: bytes) -> bytes | None:
        """:raises PartitionNotOwnedError: not ours. :raises StoreDamagedError: the process must end."""
        return self._owned(partition).get(key)

    def items(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """All rows in key order, as of this call. Errors as `get`."""
        return self._owned(partition).items()

    def chunk(self, partition: int, after: bytes | None, rows_max: int) -> list[tuple[bytes, bytes]]:
        """Up to `rows_max` rows in key order, those behind `after`; fewer only where they end. Errors as `get`."""
        return self._owned(partition).chunk(after, rows_max)

    async def write(self, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        """Put rows (None deletes one): the changelog first, every acknowledgement awaited; then the local store, as one batch.

        Raises whatever failed. The caller then ends the process without acknowledging its records: the changelog may have some of
        the rows and the store none, and only a recovery makes them equal again.
        """
        if not rows:
            return
        self._owned(partition)
        async with self._lock(partition):
            try:
                offset = await self._changelog.send(partition, rows)
            except Exception as error:
                error.add_note(f"{self.name}: {len(rows)} rows of partition {partition}")
                raise
            if self._after_changelog is not None:
                self._after_changelog()
            # Before the store takes the offset: it stands behind somebody else's rows, which no recovery would read again.
            self._store.took(partition, rows.items())
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
        return version_of(row) > self._newest(partition)[0]

    def taken(self, partition: int) -> Taken:
        """How far it is in its log. To be asked once after each recovery: what was lost is told once. Errors as `get`."""
        self._owned(partition)
        newest, key = self._newest(partition)
        return Taken(newest, key, lost=newest < self._store.newest_lost.pop(partition, -1))

    def _newest(self, partition: int) -> tuple[int, bytes]:
        return self._store.newest.get(partition, NONE_TAKEN)

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
        self._store.release()
        self._changelog.own({partition: self._store.next_offset(partition) for partition in active})
        for callback in self._callbacks:
            callback(set(active))


class _Table(faust.Table):  # type: ignore[misc]  # faust is untyped
    """What Faust knows of the table."""

    fold: FoldTable

    def use(self, store: FoldStore) -> None:
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
