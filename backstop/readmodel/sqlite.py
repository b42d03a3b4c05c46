"""SQLite: one writer thread, several reader threads, WAL.

The configured path is a symbolic link to the current build's file. A rebuild makes another file and moves the link,
atomically. A connection to the old file keeps a whole database until its next transaction, which reads the link and
follows it. (Replacing the file of an open database would combine its write-ahead log with the wrong file.)
"""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from backstop.readmodel.database import Database, DatabaseAwayError, RequestReads, Work
from backstop.readmodel.queries import last_seq
from backstop.readmodel.schema import JOBS_VIEW, JOBS_VIEW_COLUMNS, SCHEMA_VERSION, statements
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.process.clock import NowMs, monotonic_s

T = TypeVar("T")

READERS = 4
BUSY_TIMEOUT_S = 5.0
PROGRESS_STEPS = 20_000
"""Virtual machine steps between two checks of the time limit: about a millisecond."""
VIEW = f"CREATE VIEW IF NOT EXISTS {JOBS_VIEW} AS SELECT {JOBS_VIEW_COLUMNS} FROM jobs"
TAIL_S = 0.02
"""How often a process that does not write looks for writes of other processes. A look is two calls of the system."""

PASSING = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_PERM,
})  # fmt: skip
"""Error codes that time or an operator repairs, damage included: everything can be rebuilt. Any other code is a bug."""


class SqliteConnection:
    """`Connection` over sqlite3."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self._raw = raw

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._raw.execute(sql, params).fetchall()

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        return self._raw.execute(sql, params).rowcount

    def execute_many(self, sql: str, params: Sequence[Sequence[Any]]) -> None:
        if params:
            self._raw.executemany(sql, params)

    def take_long(self) -> None:
        """A statement has no limit here."""


class _Handle:
    """A thread's connection, and the file that it has open."""

    def __init__(self) -> None:
        self.file: Path | None = None
        self.raw: sqlite3.Connection | None = None
        self.build = 0

    def close(self) -> None:
        if self.raw is not None:
            self.raw.close()
        self.raw = None
        self.file = None


class SqliteDatabase:
    """`Database` over a file, for several processes of one machine. Not for network file systems."""

    def __init__(self, path: Path, now_ms: NowMs, files: Path | None = None) -> None:
        """`path`: the link. The builds' files are named after `files`, or after `path` if that is None."""
        self._path = path
        self._files = files or path
        self._now_ms = now_ms
        self._build = 0
        self._writer = _Handle()
        self._readers: list[_Handle] = []
        self._of_thread = threading.local()
        self._write_pool = ThreadPoolExecutor(1, thread_name_prefix="readmodel-writer")
        self._requests = RequestReads(READERS)
        # One more for the process's own reads: the feed must not wait for lists.
        self._read_pool = ThreadPoolExecutor(READERS + 1, thread_name_prefix="readmodel-reader")
        self._written = asyncio.Event()

    @property
    def build(self) -> int:
        return self._build

    @property
    def path(self) -> Path:
        return self._path

    async def open(self) -> None:
        await self._on(self._write_pool, self._open_writer)

    async def close(self) -> None:
        await asyncio.to_thread(self._shut)

    async def write(self, work: Work[T]) -> T:
        result = await self._on(self._write_pool, lambda: self._in_transaction(self._open_writer(), "IMMEDIATE", work))
        self._tell()
        return result

    async def read(self, work: Work[T]) -> T:
        async with self._requests.turn() as within_ms:
            return await self._on(self._read_pool, lambda: self._read(work, within_ms))

    def _read(self, work: Work[T], within_ms: int | None) -> T:
        handle = self._open_reader()
        assert handle.raw is not None
        with _ending(handle.raw, within_ms):
            return self._in_transaction(handle, "DEFERRED", work)

    async def changed(self, after_seq: int, timeout_s: float) -> None:
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        seen, sure = None, False
        while True:
            written = self._written
            sign = self._sign()
            if sign != seen or not sure:
                # A second write at the same tick of the file system's clock would leave the same sign: after a new
                # sign, the next look reads once more.
                seen, sure = sign, sign == seen
                if await self.read(last_seq) > after_seq:
                    return
            left_s = deadline_s - asyncio.get_running_loop().time()
            if left_s <= 0:
                return
            try:
                async with asyncio.timeout(min(TAIL_S, left_s)):
                    await written.wait()
                    seen = None
            except TimeoutError:
                continue

    def _sign(self) -> tuple[str, int, int] | None:
        """What another process's commit changes: the build's name, and time and size of its write-ahead log."""
        try:
            file = self._path.readlink()
            log = self._path.with_name(f"{file}-wal").stat()
        except OSError:
            return None
        return str(file), log.st_mtime_ns, log.st_size

    def for_rebuild(self) -> "SqliteDatabase":
        link = self._path.with_name(f"{self._path.stem}.rebuilding{self._path.suffix}")
        return SqliteDatabase(link, self._now_ms, self._files)

    async def discard(self) -> None:
        await self.close()
        await asyncio.to_thread(self._remove_all)

    async def promote(self, rebuilt: Database) -> None:
        assert isinstance(rebuilt, SqliteDatabase)
        await rebuilt.close()
        await self._on(self._write_pool, lambda: self._swap(rebuilt))
        self._tell()

    def _swap(self, rebuilt: "SqliteDatabase") -> None:
        before = self._current() if self._path.is_symlink() else None
        after = rebuilt._current()  # noqa: SLF001 - its own kind
        point(self._path, after)
        rebuilt._path.unlink()  # noqa: SLF001 - as above
        for file in self._path.parent.glob(f"{self._files.stem}-*{self._files.suffix}"):
            if file not in (before, after):
                remove(file)

    def _remove_all(self) -> None:
        if self._path.is_symlink():
            remove(self._current())
            self._path.unlink()

    def _tell(self) -> None:
        """Wake the current waiters; later ones wait for the next write."""
        written, self._written = self._written, asyncio.Event()
        written.set()

    async def _on(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        try:
            running = asyncio.get_running_loop().run_in_executor(pool, work)
        except RuntimeError as error:
            raise DatabaseAwayError(f"{self._path}: closed") from error
        try:
            return await asyncio.shield(running)
        except OSError as error:
            raise DatabaseAwayError(f"{self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF not in PASSING:
                raise  # a wrong statement or a failed guard: a bug, not an unavailable database
            raise DatabaseAwayError(f"{self._path}: {error} ({error.sqlite_errorname})") from error

    @contextmanager
    def _transaction(self, raw: sqlite3.Connection, mode: str) -> Iterator[None]:
        raw.execute(f"BEGIN {mode}")
        try:
            yield
            raw.execute("COMMIT")
        except BaseException:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            raise

    def _in_transaction(self, handle: _Handle, mode: str, work: Work[T]) -> T:
        raw = handle.raw
        assert raw is not None
        with self._transaction(raw, mode):
            result = work(SqliteConnection(raw))
        self._build = handle.build
        return result

    def _open_reader(self) -> _Handle:
        handle: _Handle | None = getattr(self._of_thread, "handle", None)
        if handle is None:
            handle = self._of_thread.handle = _Handle()
            self._readers.append(handle)
        return self._follow(handle, self._current())

    def _open_writer(self) -> _Handle:
        if not self._path.exists():
            self._make()
        file = self._current()
        is_new = file != self._writer.file
        handle = self._follow(self._writer, file)
        if is_new and handle.raw is not None:
            handle.raw.execute(VIEW)  # An earlier release may have made the build.
        return handle

    def _current(self) -> Path:
        """The file that the link names."""
        try:
            return self._path.parent / self._path.readlink()
        except OSError:
            if self._path.exists():
                raise ConfigurationError(
                    f"{self._path} is a file, but must be a link to the current build: move the file away, restart"
                ) from None
            raise

    def _follow(self, handle: _Handle, file: Path) -> _Handle:
        if handle.file != file:
            handle.close()
            handle.raw = connect(file)
            handle.build = _checked_build(handle.raw, file)
            handle.file = file
            self._build = handle.build
        return handle

    def _make(self) -> None:
        build = self._now_ms()
        file = build_file(self._files, build)
        create(file, build)
        try:
            # A dangling link remains if an operator deleted the file to start afresh.
            point(self._path, file, only_new=not self._path.is_symlink())
        except FileExistsError:
            remove(file)  # another process was first, and its build is equivalent

    def _shut(self) -> None:
        self._read_pool.shutdown(wait=True)
        self._write_pool.shutdown(wait=True)
        for handle in (self._writer, *self._readers):
            handle.close()


def connect(file: Path) -> sqlite3.Connection:
    """A connection with Backstop's settings. One thread at a time uses it; the last user closes it."""
    raw = sqlite3.connect(
        f"file:{file}?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        raw.execute("PRAGMA journal_mode=WAL")
        # A power cut loses rows and offsets together, and they are read again: a sync per commit would gain nothing.
        raw.execute("PRAGMA synchronous=NORMAL")
        raw.execute("PRAGMA foreign_keys=ON")
    except BaseException:
        raw.close()
        raise
    return raw


@contextmanager
def _ending(raw: sqlite3.Connection, within_ms: int | None) -> Iterator[None]:
    """Interrupt a statement after `within_ms`: its client has gone, and it would hold a reader."""
    if within_ms is None:
        yield
        return
    ends_at_s = monotonic_s() + within_ms / 1000
    raw.set_progress_handler(lambda: monotonic_s() > ends_at_s, PROGRESS_STEPS)
    try:
        yield
    finally:
        raw.set_progress_handler(None, 0)


def build_file(path: Path, build: int) -> Path:
    """The file of a build of the read model at `path`."""
    return path.with_name(f"{path.stem}-{build}{path.suffix}")


def create(file: Path, build: int) -> None:
    """Create an empty build. The file must not exist."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(exist_ok=False, mode=0o600)
    raw = connect(file)
    try:
        raw.execute("BEGIN IMMEDIATE")
        for statement in statements("sqlite"):
            raw.execute(statement)
        raw.executemany(
            "INSERT INTO meta (name, value) VALUES (?, ?)",
            [("build", str(build)), ("schema_version", str(SCHEMA_VERSION))],
        )
        raw.execute(VIEW)
        raw.execute("COMMIT")
    finally:
        raw.close()


def point(path: Path, file: Path, *, only_new: bool = False) -> None:
    """Let `path` name `file`, atomically.

    :raises FileExistsError: with `only_new`, if `path` exists.
    """
    if only_new:
        path.symlink_to(file.name)
        return
    link = path.with_name(f"{path.name}.{os.getpid()}.link")
    link.unlink(missing_ok=True)
    link.symlink_to(file.name)
    link.replace(path)


def remove(file: Path) -> None:
    """Delete a build's file and SQLite's files beside it. No process may have it open."""
    for suffix in ("", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def _checked_build(raw: sqlite3.Connection, file: Path) -> int:
    try:
        meta = dict(raw.execute("SELECT name, value FROM meta").fetchall())
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        meta = {}
    if meta.get("schema_version") != str(SCHEMA_VERSION):
        raise ConfigurationError(
            f"{file} has schema {meta.get('schema_version')}, this release needs {SCHEMA_VERSION}: run "
            "`backstop readmodel rebuild`"
        )
    return int(meta["build"])
