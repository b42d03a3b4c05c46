"""One partition of a table on the local disk: a RocksDB that is checked when it is opened, and set aside if it is damaged.

The store is a copy: the changelog can always give it again. So nothing here repairs, and nothing waits for the disk: a batch of
rows is written together with the changelog offset that it stands for, through RocksDB's write-ahead log without an fsync. What a
power cut takes away is a tail of whole batches, offset included, and recovery brings it back.

RocksDB's checksums find what changed, but not what is gone: with a log file emptied between two others it opens without a word,
new offset, old rows. So each batch carries a digest of all rows (a sum of hashes, which a write corrects by what it replaces),
and opening compares it with the rows that are there.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
)

OFFSET_KEY = b"__faust\0offset__"
"""Faust's own key, with the offset in decimal: its stores and ours can read each other."""

DIGEST_KEY = b"__backstop\0digest__"
_OWN_KEYS = (OFFSET_KEY, DIGEST_KEY)
_DIGEST_BYTES = 16

CHECK_ROWS = 200
"""Of one step of a check: a few milliseconds, whoever watches the rows included."""

_NOT_DAMAGE = (
    "no space left", "quota exceeded", "file too large", "permission denied", "too many open files", "read-only file system",
)  # fmt: skip
_LOCKED = ("lock hold by", "while lock file")  # not "lock": a damaged *block* is another matter


class StoreLockedError(RuntimeError):
    """Another process (or this one, twice) has the store open. The operator's: one data folder a process."""


class StoreDamagedError(RuntimeError):
    """The store can't be read. Ours: the process ends, and the check at the next start sets the store aside."""


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Bytes of memory. The block cache is for all stores of the process, a memtable for one (a partition of a table)."""

    block_cache_bytes_max: int = 16 * 1024 * 1024
    memtable_bytes_max: int = 1024 * 1024
    memtables_max: int = 2
    open_files_max: int = 64


class PartitionDb:
    """Rows of one partition, bytes to bytes. Not thread-safe. Close it: RocksDB holds a lock until then."""

    def __init__(self, path: Path, cache: Cache, limits: StoreLimits, *, checked: bool = True) -> None:
        """Open it; it may be used once `checking` has ended, which is done here if `checked`.

        :raises StoreLockedError: see there. :raises StoreDamagedError: on opening or scanning it. :raises OSError: the disk.
        """
        self.path = path
        self._closed = False
        self._digest = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = Rdict(str(path), options=_options(cache, limits))
        except Exception as error:
            raise _told_apart(path, error) from error
        try:
            for _rows in self.checking() if checked else ():
                pass
        except BaseException:
            self.close()
            raise

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:
            raise _told_apart(self.path, error) from error
        return value

    def offset(self) -> int | None:
        """The changelog offset up to which the rows are complete; None for an empty store."""
        value = self.get(OFFSET_KEY)
        return int(value) if value is not None else None

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All rows in key order, as of this call."""
        iterator = self._db.iter(_scan())
        iterator.seek_to_first()
        while iterator.valid():
            key: bytes = iterator.key()
            if key not in _OWN_KEYS:
                yield key, iterator.value()
            iterator.next()
        try:
            iterator.status()  # an iterator ends at a damaged block as it does behind the last row
        except Exception as error:
            raise _told_apart(self.path, error) from error

    def chunk(self, after: bytes | None, rows_max: int) -> list[tuple[bytes, bytes]]:
        """Up to `rows_max` rows in key order, those behind `after`; fewer only where they end. Nothing stays open between two calls."""
        iterator = self._db.iter(_scan())
        if after is None:
            iterator.seek_to_first()
        else:
            iterator.seek(after + b"\0")
        found: list[tuple[bytes, bytes]] = []
        while len(found) < rows_max and iterator.valid():
            key: bytes = iterator.key()
            if key not in _OWN_KEYS:
                found.append((key, iterator.value()))
            iterator.next()
        try:
            iterator.status()
        except Exception as error:
            raise _told_apart(self.path, error) from error
        return found

    def write(self, rows: Iterable[tuple[bytes, bytes | None]], offset: int | None) -> None:
        """Rows (None deletes) and the changelog offset they bring the store to, all or nothing."""
        batch = WriteBatch(raw_mode=True)
        digest = self._digest
        for key, value in dict(rows).items():
            replaced = self.get(key)
            if replaced is not None:
                digest -= _hash(key, replaced)
            if value is None:
                batch.delete(key)
            else:
                digest += _hash(key, value)
                batch.put(key, value)
        digest %= 1 << (8 * _DIGEST_BYTES)
        batch.put(DIGEST_KEY, digest.to_bytes(_DIGEST_BYTES))
        if offset is not None:
            batch.put(OFFSET_KEY, str(offset).encode())
        try:
            self._db.write(batch)
        except Exception as error:
            raise _told_apart(self.path, error) from error
        self._digest = digest

    def digest(self) -> bytes:
        """Of all rows, whatever their history: two partitions with the same rows have the same."""
        digest: int = self._digest
        return digest.to_bytes(_DIGEST_BYTES)

    def close(self) -> None:
        """Close it, once or again."""
        if not self._closed:
            self._closed = True
            # It flushes first, which a damaged store refuses. The log has what was not flushed; letting go closes it too.
            with contextlib.suppress(Exception):
                self._db.close()
            del self._db

    def checking(self) -> Iterator[list[tuple[bytes, bytes]]]:
        """Read everything once, a chunk of rows at a step: each block's checksum is compared, then the rows' digest; the offset must be a number."""
        digest, after = 0, None
        while rows := self.chunk(after, CHECK_ROWS):
            digest += sum(_hash(key, value) for key, value in rows)
            after = rows[-1][0]
            yield rows
        self._digest = digest % (1 << (8 * _DIGEST_BYTES))
        stored = self.get(DIGEST_KEY)
        if self._digest != (int.from_bytes(stored) if stored is not None else 0):
            raise StoreDamagedError(f"{self.path}: the rows are not those that its digest stands for")
        try:
            offset = self.offset()
        except ValueError as error:
            raise StoreDamagedError(f"{self.path}: the changelog offset is no number") from error
        if offset is not None and offset < 0:
            raise StoreDamagedError(f"{self.path}: the changelog offset is {offset}")


def _hash(key: bytes, value: bytes) -> int:
    return int.from_bytes(blake2b(b"%d:%b%b" % (len(key), key, value), digest_size=_DIGEST_BYTES).digest())


def set_aside(path: Path) -> Path:
    """Rename a store to `<name>.damaged-<n>`, for whoever wants to know why; returns the new path."""
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(target)
    return target


def newest_change_s(path: Path) -> float | None:
    """When a file of the store last changed, in unix seconds; None if there is no store."""
    changes = [entry.stat().st_mtime for entry in os.scandir(path)] if path.is_dir() else []
    return max(changes, default=None)


def new_cache(limits: StoreLimits) -> Cache:
    return Cache(limits.block_cache_bytes_max)


def _options(cache: Cache, limits: StoreLimits) -> Options:
    blocks = BlockBasedOptions()
    blocks.set_block_cache(cache)
    blocks.set_bloom_filter(10, block_based=False)
    options = Options(raw_mode=True)
    options.create_if_missing(create_if_missing=True)
    options.set_block_based_table_factory(blocks)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_paranoid_checks(enabled=True)
    # Stops at the first record that does not check: a batch is lost with all that follow it, never from the middle.
    options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
    options.set_write_buffer_size(limits.memtable_bytes_max)
    options.set_max_write_buffer_number(limits.memtables_max)
    options.set_max_open_files(limits.open_files_max)
    options.set_max_background_jobs(2)
    options.set_manifest_preallocation_size(64 * 1024)
    options.set_max_log_file_size(256 * 1024)
    options.set_keep_log_file_num(2)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    return options


def _scan() -> ReadOptions:
    options = ReadOptions()
    options.set_verify_checksums(v=True)
    options.fill_cache(v=False)
    return options


def _told_apart(path: Path, error: Exception) -> Exception:
    """What an error of RocksDB means, by who must act."""
    text = str(error).lower()
    if any(phrase in text for phrase in _LOCKED):
        return StoreLockedError(f"{path}: open in another process; give each its own data folder ({error})")
    if any(phrase in text for phrase in _NOT_DAMAGE):
        return OSError(f"{path}: {error}")
    return StoreDamagedError(f"{path}: {error}")
