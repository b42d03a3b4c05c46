"""The real table (`streams.tables.fold_table`, `streams.tables.changelog`) on a model of what it stands on: a log, and
a disk.

Not here: Faust (the consumer in `worker` does its part of the recovery) and RocksDB, which is a dict whose writes are
atomic.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Self

from backstop.runtime.errors import BrokerUnavailableError
from streams.fold.batch import Fold
from streams.fold.rows import decode_row
from streams.tables.changelog import Changelog, ChangelogProducer
from streams.tables.fold_store import FoldStore
from streams.tables.fold_table import FoldTable
from tests.simulation.broker import Broker, Log, Record
from tests.simulation.chaos import Life
from tests.simulation.wrong import Wrong

CHUNK_RECORDS = 100
COMPACTION_LAG_MS = 30_000
"""`min.compaction.lag.ms` of the changelogs; an owner finds a zombie's rows sooner."""


class LocalStores:
    """The disk of one host: it outlives the process, unless it is lost."""

    def __init__(self) -> None:
        self.partitions: dict[tuple[str, int], PartitionRows] = {}

    def lose(self) -> None:
        self.partitions.clear()


class PartitionRows:
    """`streams.tables.partition_db.PartitionDb`: rows and the changelog's offset, written together."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._offset: int | None = None

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(sorted(self._rows.items()))

    def chunk(self, after: bytes | None, rows_max: int) -> list[tuple[bytes, bytes]]:
        return [item for item in self.items() if after is None or item[0] > after][:rows_max]

    def offset(self) -> int | None:
        return self._offset

    def write(self, rows: Iterable[tuple[bytes, bytes | None]], offset: int | None) -> None:
        for key, row in rows:
            if row is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = row
        if offset is not None:
            self._offset = offset

    def close(self) -> None:
        """The file stays."""


class _Reader:
    """A consumer without a group, for the length of a block."""

    def __init__(self, point: Callable[[], Awaitable[None]], logs: Mapping[int, Log]) -> None:
        self._point = point
        self._logs = logs
        self._at: dict[int, int] = {}

    async def __aenter__(self) -> Self:
        await self._point()
        return self

    async def __aexit__(self, *_error: object) -> None:
        """There is nothing to close."""

    async def end_offsets(self, tps: Sequence[Any]) -> dict[Any, int]:
        return {tp: self._logs[tp.partition].end for tp in tps}

    def assign(self, tps: Sequence[Any]) -> None:
        """All are."""

    def seek(self, tp: Any, offset: int) -> None:
        self._at[tp.partition] = offset

    async def position(self, tp: Any) -> int:
        return self._at[tp.partition]

    async def getmany(self, tp: Any, timeout_ms: int, max_records: int) -> dict[Any, list[Record]]:
        await self._point()
        log = self._logs[tp.partition]
        records = log.read(self._at[tp.partition], min(CHUNK_RECORDS, max_records))
        self._at[tp.partition] = records[-1].offset + 1 if records else log.end
        return {tp: records}


class ModelChangelog(Changelog):
    """The code that notices and repairs a zombie's rows is the real one; producer and reader are not."""

    def __init__(self, life: Life, broker: Broker, topic: str, fold: str, wrong: Wrong) -> None:
        super().__init__(lambda: topic, ChangelogProducer({}, fold))
        self._life = life
        self._fold = fold
        self._wrong = wrong
        self._logs = {log.partition: log for log in broker.of_topic(topic)}

    def own(self, next_offsets: Mapping[int, int]) -> None:
        super().own({} if self._wrong.zombie_rows_unnoticed else next_offsets)

    async def send(self, partition: int, rows: Mapping[bytes, bytes | None]) -> int | None:
        """Sometimes in two batches; another owner's batch may come between them."""
        life, chaos, log, term = self._life, self._life.chaos, self._logs[partition], self.term
        items = list(rows.items())
        first = chaos.random.randrange(len(items) + 1) if chaos.on else 0
        landed: list[tuple[int, int]] = []
        for part in (items[:first], items[first:]):
            await life.point(f"{self._fold}.changelog")
            if part:
                start = log.end
                for key, row in part:
                    log.append(key, row, life.now_ms())
                landed.append((start, len(part)))
        await life.point(f"{self._fold}.changelog.acked")
        if chaos.away() or chaos.chance(chaos.mixture.lost_ack / 4):
            raise BrokerUnavailableError("the changelog does not acknowledge")
        if chaos.chance(chaos.mixture.lost_ack / 8):
            chaos.met.add("changelog acknowledged without an offset")
            landed = [(-1, count) for _, count in landed]
        last: int | None = None
        for start, count in landed:
            last = self._landed(partition, start, count, term)
        if self._foreign.get(partition):
            chaos.met.add("another owner's rows noticed")
        return last

    def _reader(self) -> Any:
        return _Reader(lambda: self._life.point(f"{self._fold}.changelog.read"), self._logs)


class _NothingStays(set[int]):
    def add(self, element: int) -> None:
        """For the wrong variant: nothing is held back."""


class _Store(FoldStore):
    """A FoldStore whose partitions are rows on a simulated host's disk."""

    def __init__(self, stores: LocalStores, topic: str, row_version: Any, *, forgets_overruled: bool = False) -> None:
        # The base class's `__init__` needs an app of Faust's. The methods used here need only these attributes.
        self.dbs = {}
        self._with_stale_rows = _NothingStays() if forgets_overruled else set()
        self.app = SimpleNamespace(fail=lambda error: None)
        self._row_version = row_version
        self._stores = stores
        self._topic = topic
        self.newest = {}
        self.watches = []

    def _db(self, partition: int) -> Any:
        if partition not in self.dbs:
            rows: Any = self._stores.partitions.setdefault((self._topic, partition), PartitionRows())
            self.dbs[partition] = rows
            self._begin(partition)
            self._saw(partition, list(self.dbs[partition].items()))
        return self.dbs[partition]


class Table(FoldTable):
    """`recover` is Faust's part; the rest is the real one's, but for the points at which it may die."""

    def __init__(self, life: Life, broker: Broker, stores: LocalStores, fold: Fold[Any], wrong: Wrong) -> None:
        # Not the real one's: it declares a table of Faust's.
        self.name = fold.topic
        self._row_version = None if wrong.zombie_rows_unnoticed else _version
        self._after_changelog = None
        self._callbacks = []
        self._active = set()
        self._after_rows = None
        self._begin_gathering()
        self._store = _Store(stores, fold.topic, self._row_version, forgets_overruled=wrong.overruled_rows_forgotten)
        self._changelog = ModelChangelog(life, broker, f"{fold.topic}-changelog", fold.name, wrong)
        self._life = life
        self._fold = fold.name
        self._wrong = wrong
        self._logs = {log.partition: log for log in broker.of_topic(f"{fold.topic}-changelog")}

    async def _write(self, partition: int, rows: Mapping[bytes, bytes | None]) -> None:
        if self._wrong.changelog_last:
            self._owned(partition).write(rows.items(), self._logs[partition].end)
        await super()._write(partition, rows)
        await self._life.point(f"{self._fold}.rows.written")

    async def _make_good(self, partition: int, pending: Mapping[bytes, bytes | None]) -> Mapping[bytes, bytes | None]:
        if self._wrong.store_ahead_of_the_changelog and pending:
            self._owned(partition).write(pending.items(), self._logs[partition].end - 1)
        return await super()._make_good(partition, pending)

    def reassigned(self, kept: set[int]) -> None:
        super().reassigned(kept)
        for partition in set(self._store.dbs) - kept:
            self._store.dbs.pop(partition).close()

    async def recover(self, mine: set[int]) -> None:
        """Apply what the changelog has beyond the local store."""
        chaos = self._life.chaos
        for partition in sorted(mine):
            log = self._logs[partition]
            if chaos.mixture.compacts and chaos.chance(0.3):
                log.compact(self._life.now_ms() - COMPACTION_LAG_MS)
            position = self._store.next_offset(partition)
            while True:
                await self._life.point(f"{self._fold}.recover")
                records = log.read(position, CHUNK_RECORDS)
                if not records:
                    break
                position = records[-1].offset + 1
                message = SimpleNamespace(partition=partition, value=records, offset=records[-1].offset)
                self._store.apply_changelog_batch([SimpleNamespace(message=message)], None, None)


def rebuilt(records: Sequence[Record]) -> dict[bytes, bytes]:
    """A table as a recovery makes it that has nothing but the changelog."""
    store = _Store(LocalStores(), "", _version)
    message = SimpleNamespace(partition=0, value=records, offset=0)
    store.apply_changelog_batch([SimpleNamespace(message=message)], None, None)
    return dict(store._db(0).items())


def compacted(records: Sequence[Record]) -> dict[bytes, bytes]:
    """A table as it is left when compaction has kept the last record of each key."""
    last = {record.key: record.value for record in records}
    return {key: row for key, row in last.items() if key is not None and row is not None}


def _version(row: bytes) -> int:
    return decode_row(row)[1]
