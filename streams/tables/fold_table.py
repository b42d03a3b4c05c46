"""A fold's table: rows of bytes, one partition for each partition of the log, recovered by Faust from a changelog.

Faust does the assignment (a table's partition and its log's have the same owner) and the recovery. It does not do the
writes: Faust writes the local store first, never waits for the changelog, and logs a failed changelog record as a
warning. Here the changelog's record is acknowledged by all in-sync replicas before the row is in the local store, and
every failure is raised to the caller.

Rows that are `put` are gathered for `GATHER_S`: a response changes three times within some milliseconds, and only its
last row is written. Reads see them at once. The consumer calls `flush` between the choice of the offsets and their
commit, so an offset is never committed before the rows of its records are written; a crash before that repeats records
and outputs.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import faust
from faust.types import TP

from backstop.runtime.errors import ConfigurationError, InvariantError
from schemas.topics import CHANGELOG_CONFIG
from streams.ports import RowWatch
from streams.tables.changelog import Changelog
from streams.tables.fold_store import NONE_TAKEN, DamageFound, FoldStore
from streams.tables.lost_tail import TableProgress
from streams.tables.partition_db import PartitionDb, StoreDamagedError, StoreLimits

__all__ = ["FoldTable", "PartitionNotOwnedError", "StoreDamagedError", "StoreLimits"]

GATHER_S = 0.05
"""How long rows wait for others, to be written with them."""

GATHERED_ROWS_MAX = 500
GATHERED_BYTES_MAX = 4 * 1024 * 1024
"""Of a partition, in memory and not written yet. A batch beyond it waits until they are."""

RECOVERY_CHUNKS_MAX = 2
"""Chunks of a changelog (512 KiB each) that Faust buffers before it applies them. 1 means a global table to Faust."""

Recovered = Callable[[set[int]], None]


class PartitionNotOwnedError(InvariantError):
    """A read or write of a partition that this worker does not own, or not any more."""


class FoldTable:
    """A table of rows (bytes → bytes), co-partitioned with its log, stored in RocksDB, recovered from a changelog."""

    def __init__(
        self,
        app: Any,
        name: str,
        partitions: int,
        *,
        min_insync_replicas: int = 1,
        on_damage: DamageFound | None = None,
        after_changelog: Callable[[], None] | None = None,
        after_rows: Callable[[], None] | None = None,
        row_version: Callable[[bytes], int] | None = None,
    ) -> None:
        """Declare it before the app starts. The replication factor is the app's.

        :param row_version: a number that never falls from one row of a key to the next. With it, recovery skips a row
            older than the one before it in the changelog, and an overtaken worker does not overwrite the next owner's
            rows.
        :param after_changelog: called in `write` between the changelog's acknowledgement and the local write, for tests
            that end the process there.
        :param after_rows: the same, after the local write.
        """
        self.name = name
        self._app = app
        self._after_changelog = after_changelog
        self._after_rows = after_rows
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
            extra_topic_configs={"min.insync.replicas": min_insync_replicas, **dict(CHANGELOG_CONFIG)},
        )
        self._table.fold = self
        self._store = FoldStore(app, self._table, StoreLimits(), on_damage, row_version)
        self._table.use(self._store)
        app.tables.add(self._table)
        self._changelog = Changelog(lambda: self.changelog_topic, app.changelog_producer())
        self._begin_gathering()

    def _begin_gathering(self) -> None:
        self._locks: dict[int, asyncio.Lock] = {}
        self._gathered: dict[int, dict[bytes, bytes | None]] = {}
        """Rows that are not written yet, or are being written."""
        self._some_gathered = asyncio.Event()
        self._term = 0
        """Grows with each rebalance."""

    @property
    def rows_reasserted(self) -> int:
        """Rows that a former owner had overwritten in the changelog and that were written again: for metrics."""
        return self._changelog.reasserted

    @property
    def changelog_topic(self) -> str:
        topic: str = self._table.changelog_topic_name
        return topic

    def partitions(self) -> set[int]:
        """The owned and recovered partitions. During a rebalance those from before it, until the new assignment."""
        return set(self._active)

    def watch(self, watch: RowWatch) -> None:
        """Tell `watch` of all rows, before `on_recovered` calls back. To be called before the app starts."""
        self._store.watches.append(watch)

    def on_recovered(self, callback: Recovered) -> None:
        """Call `callback` with `partitions()` after each recovery, before records flow. An error ends the process."""
        self._callbacks.append(callback)

    def get(self, partition: int, key: bytes) -> bytes | None:
        """The row of `key`, or None.

        :raises PartitionNotOwnedError: this worker does not own the partition.
        :raises StoreDamagedError: the process must end.
        """
        db, gathered = self._owned(partition), self._gathered.get(partition)
        return gathered[key] if gathered and key in gathered else db.get(key)

    def items(self, partition: int) -> Iterator[tuple[bytes, bytes]]:
        """All written rows in key order, as of this call. Errors as in `get`."""
        return self._owned(partition).items()

    def chunk(self, partition: int, after: bytes | None, rows_max: int) -> list[tuple[bytes, bytes]]:
        """As `streams.ports.WalkedRows.chunk`, of written and of gathered rows. Errors as in `get`."""
        written = self._owned(partition).chunk(after, rows_max)
        end = written[-1][0] if len(written) == rows_max else None
        # A key whose deletion is not written yet shows its last row: a chunk must be full, except at the end.
        newer = {
            key: row
            for key, row in self._gathered.get(partition, {}).items()
            if row is not None and (after is None or key > after) and (end is None or key <= end)
        }
        return sorted({**dict(written), **newer}.items())[:rows_max]

    async def put(self, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        """Take rows (None deletes one), whose outputs are acknowledged. They are read from now on, and written later.

        Returns at once, unless too many rows wait. Errors as in `write`.
        """
        self._owned(partition)
        self._store.took(partition, rows.items())
        gathered = self._gathered.setdefault(partition, {})
        gathered.update(rows)
        self._some_gathered.set()
        if len(gathered) > GATHERED_ROWS_MAX or sum(map(_size_bytes, gathered.values())) > GATHERED_BYTES_MAX:
            await self._flush(partition)

    async def write_gathered(self) -> None:
        """Write what is put, until cancelled."""
        while True:
            await self._some_gathered.wait()
            await asyncio.sleep(GATHER_S)
            self._some_gathered.clear()
            await self.flush()

    async def flush(self) -> None:
        """Return when all rows are written that were put before this call. Errors as in `write`."""
        await asyncio.gather(*(self._flush(partition) for partition, rows in self._gathered.items() if rows))

    async def _flush(self, partition: int) -> None:
        async with self._lock(partition):
            gathered = self._gathered.get(partition, {})
            rows = dict(gathered)
            if rows:
                await self._write(partition, rows)
                for key, row in rows.items():
                    if gathered.get(key) is row:
                        gathered.pop(key, None)

    async def write(self, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        """Put rows (None deletes one): first in the changelog, acknowledged, then in the local store as one batch.

        Any failure is raised. The caller must then end the process and acknowledge nothing: the changelog may have some
        of the rows and the store none, and only a recovery makes them equal again.
        """
        if rows:
            self._owned(partition)
            self._store.took(partition, rows.items())
            async with self._lock(partition):
                await self._write(partition, rows)

    async def _write(self, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        self._owned(partition)
        term = self._term
        try:
            offset = await self._changelog.send(partition, rows)
        except Exception as error:
            error.add_note(f"{self.name}: {len(rows)} rows of partition {partition}")
            raise
        if self._after_changelog is not None:
            self._after_changelog()
        # Repair foreign rows first: recovery resumes after the stored offset and would skip them. The rows of those
        # keys go to the store with the offset: some are gathered only, and this worker may end before they are written.
        repaired = await self._make_good(partition, rows)
        # Check ownership again: the partition may have been revoked meanwhile.
        self._owned_since(term, partition).write({**rows, **repaired}.items(), offset)
        if self._after_rows is not None:
            self._after_rows()

    async def watch_changelog(self) -> None:
        """Detect foreign rows at the ends of the changelog and repair them. To be called periodically."""
        await self._changelog.notice(self.partitions())
        for partition in self.partitions():
            if self._changelog.foreign(partition):
                async with self._lock(partition):
                    term = self._term
                    repaired = await self._make_good(partition, {})
                    # The next write finds no gap, and moves the stored offset past these rows.
                    if repaired and partition in self._active and term == self._term:
                        self._owned(partition).write(repaired.items(), None)

    async def _make_good(self, partition: int, pending: Mapping[bytes, bytes | None]) -> Mapping[bytes, bytes | None]:
        """:param pending: rows of this worker that are in the changelog and not yet in the store.
        :returns: the rows with which the changelog ends for the keys of foreign rows.
        """
        if not self._changelog.foreign(partition):
            return {}

        gathered = self._gathered.get(partition, {})

        def current(key: bytes) -> bytes | None:
            known = next((rows for rows in (gathered, pending) if key in rows), None)
            return self._owned(partition).get(key) if known is None else known[key]

        return await self._changelog.make_good(
            partition, current, lambda key, row: self._is_ahead(partition, current(key), row)
        )

    def _is_ahead(self, partition: int, ours: bytes | None, row: bytes) -> bool:
        """Whether a foreign `row` has taken records of the log that this worker has not; `ours` has the same key."""
        version_of = self._row_version
        if version_of is None:
            return False
        if ours is not None:
            return version_of(row) > version_of(ours)
        # The key has no row: deleted, or not created yet. Compare with how far this partition is in the log.
        return version_of(row) > self._newest(partition)[0]

    def taken(self, partition: int) -> TableProgress:
        """How far a partition is in its log. Call it once per recovery: `lost` is reported once. Errors as in `get`."""
        self._owned(partition)
        newest, key = self._newest(partition)
        return TableProgress(newest, key, lost=newest < self._store.newest_lost.pop(partition, -1))

    def _newest(self, partition: int) -> tuple[int, bytes]:
        return self._store.newest.get(partition, NONE_TAKEN)

    def _lock(self, partition: int) -> asyncio.Lock:
        return self._locks.setdefault(partition, asyncio.Lock())

    def _owned(self, partition: int) -> PartitionDb:
        db = self._store.dbs.get(partition) if partition in self._active else None
        if db is None:
            raise PartitionNotOwnedError(f"{self.name}: this worker does not own partition {partition}")
        return db

    def _owned_since(self, term: int, partition: int) -> PartitionDb:
        """What this worker writes may be older than what it has recovered since: another one had the partition."""
        if term != self._term:
            raise PartitionNotOwnedError(
                f"{self.name}: partition {partition} was assigned anew while rows were written"
            )
        return self._owned(partition)

    # Called by `_Table` and `FoldStore`.

    async def start(self) -> None:
        # Faust has just created the topic and subscribes next. Wait for the topic: the assignment leaves out a topic
        # that the broker does not know yet, without an error, and the table's partitions would have no owner.
        partitions = await self._changelog.start()
        if partitions != self._table.partitions:
            raise ConfigurationError(
                f"{self.changelog_topic} has {partitions} partitions; the table needs {self._table.partitions}"
            )

    async def stop(self) -> None:
        await self._changelog.stop()

    def reassigned(self, kept: set[int]) -> None:
        """Gathered rows are dropped, of partitions that stay as well: a worker that was stopped (SIGSTOP) may have lost
        them to another one and have them back. Their records are not committed, so they are taken again.
        """
        self._active &= kept
        self._term += 1
        self._gathered = {}

    def recovered(self, active: set[int]) -> None:
        self._active = set(active)
        self._store.release()
        self._changelog.own({partition: self._store.next_offset(partition) for partition in active})
        for callback in self._callbacks:
            callback(set(active))


def _size_bytes(row: bytes | None) -> int:
    return len(row or b"")


class _Table(faust.Table):  # type: ignore[misc]  # faust is untyped
    """Faust's side of the table."""

    fold: FoldTable

    def use(self, store: FoldStore) -> None:
        self._data = store

    async def on_start(self) -> None:
        await super().on_start()
        await self.fold.start()

    async def on_stop(self) -> None:
        await self.fold.stop()

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        # Faust would swallow an exception.
        try:
            await super().on_recovery_completed(active_tps, standby_tps)
            self.fold.recovered({tp.partition for tp in active_tps})
        except Exception as error:
            self.app.fail(error)
            raise
