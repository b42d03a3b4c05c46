"""One partition of a table on the local disk: a RocksDB that is checked when it is opened, and set aside if damaged.

The store is a copy of the changelog. So this module repairs nothing and does not wait for the disk: a batch of rows is
written with its changelog offset through RocksDB's write-ahead log, without an fsync. A power failure loses the last
whole batches including their offsets, and recovery reads them again.

RocksDB's checksums detect changed data but not missing data: with an emptied log file between two others it opens
without an error, with the new offset and old rows. So each batch contains a digest of all rows (a sum of hashes,
updated by each write), and opening compares it with the rows.
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
"""Faust's own key, with the offset in decimal: Faust's stores and these can read each other."""

DIGEST_KEY = b"__backstop\0digest__"
_OWN_KEYS = (OFFSET_KEY, DIGEST_KEY)
_DIGEST_BYTES = 16

CHECK_ROWS = 200
"""Rows in one step of a check: a few milliseconds, including the watches."""

_NOT_DAMAGE = (
    "no space left", "quota exceeded", "file too large", "permission denied", "too many open files",
    "read-only file system",
)  # fmt: skip
_LOCKED = ("lock hold by", "while lock file")  # Not "lock": that would match a damaged "block".


class StoreLockedError(RuntimeError):
    """Another process, or this one, has the store open. The operator must give each process its own data folder."""


class StoreDamagedError(RuntimeError):
    """The store can't be read. The process must end; the check at the next start sets the store aside."""


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Limits in bytes and numbers. The block cache serves all stores of the process; the rest is per partition."""

    block_cache_bytes_max: int = 16 * 1024 * 1024
    memtable_bytes_max: int = 1024 * 1024
    memtables_max: int = 2
    open_files_max: int = 64


class PartitionDb:
    """Rows of one partition, bytes to bytes. Not thread-safe. RocksDB keeps a lock until `close`."""

    def __init__(self, path: Path, cache: Cache, limits: StoreLimits, *, checked: bool = True) -> None:
        """Open the store.

        :param checked: run the whole check now. If False, the caller must exhaust `checking` before any other use.
        :raises StoreLockedError: another process has it open.
        :raises StoreDamagedError: opening or checking failed.
        :raises OSError: the disk or the process's limits.
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
        """The offset of the last changelog record that the rows contain; None for an empty store."""
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
            iterator.status()  # An iterator ends at a damaged block as at the last row.
        except Exception as error:
            raise _told_apart(self.path, error) from error

    def chunk(self, after: bytes | None, rows_max: int) -> list[tuple[bytes, bytes]]:
        """As `streams.ports.WalkedRows.chunk`. No iterator stays open between two calls."""
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
        """Write rows (None deletes one) and the changelog offset atomically. Offset None keeps the stored offset."""
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
        """The digest of all rows: equal for two partitions with the same rows, whatever their history."""
        digest: int = self._digest
        return digest.to_bytes(_DIGEST_BYTES)

    def close(self) -> None:
        """Close the store. Further calls do nothing."""
        if not self._closed:
            self._closed = True
            # Closing flushes first, which fails on a damaged store. The write-ahead log has the rest, and `del` closes
            # too.
            with contextlib.suppress(Exception):
                self._db.close()
            del self._db

    def checking(self) -> Iterator[list[tuple[bytes, bytes]]]:
        """Check all rows: yields them in chunks of `CHECK_ROWS`, in key order.

        :raises StoreDamagedError: a block's checksum, the digest of the rows or the offset is wrong.
        """
        digest, after = 0, None
        while rows := self.chunk(after, CHECK_ROWS):
            digest += sum(_hash(key, value) for key, value in rows)
            after = rows[-1][0]
            yield rows
        self._digest = digest % (1 << (8 * _DIGEST_BYTES))
        stored = self.get(DIGEST_KEY)
        if self._digest != (int.from_bytes(stored) if stored is not None else 0):
            raise StoreDamagedError(f"{self.path}: the digest does not match the rows")
        try:
            offset = self.offset()
        except ValueError as error:
            raise StoreDamagedError(f"{self.path}: the changelog offset is not a number") from error
        if offset is not None and offset < 0:
            raise StoreDamagedError(f"{self.path}: the changelog offset is {offset}")


def _hash(key: bytes, value: bytes) -> int:
    return int.from_bytes(blake2b(b"%d:%b%b" % (len(key), key, value), digest_size=_DIGEST_BYTES).digest())


def mark_damaged(path: Path) -> Path:
    """Rename a store to `<name>.damaged-<n>`, so that an operator can examine it; returns the new path."""
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(target)
    return target


def newest_change_s(path: Path) -> float | None:
    """When a file of the store last changed, in Unix seconds; None without a store or files."""
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
    # Replay stops at the first bad record: a batch is lost only with all later ones, never from the middle.
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
    """Classify an error of RocksDB by the party that must act."""
    text = str(error).lower()
    if any(phrase in text for phrase in _LOCKED):
        return StoreLockedError(f"{path}: open in another process; give each process its own data folder ({error})")
    if any(phrase in text for phrase in _NOT_DAMAGE):
        return OSError(f"{path}: {error}")
    return StoreDamagedError(f"{path}: {error}")
