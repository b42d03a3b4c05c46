"""SQLite: one writer thread, some reader threads, WAL.

The configured path is a symbolic link to the file of the current build. A rebuild makes another file and moves the link, at
once; whoever has the old file open keeps a whole database until its next transaction, looks at the link then, and follows.
(Replacing an open database's own file would leave its write-ahead log to the wrong one.)
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
from backstop.readmodel.schema import SCHEMA_VERSION, statements
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.process.clock import NowMs, monotonic_s

T = TypeVar("T")

READERS = 4
BUSY_TIMEOUT_S = 5.0
PROGRESS_STEPS = 20_000
"""Of SQLite's machine between two looks at the clock: about a millisecond."""
TAIL_S = 0.1
"""How often a process that does not write itself looks for other processes' writes."""

PASSING = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_PERM,
})  # fmt: skip
"""Codes that an operator or time mends, damage included: all of it can be rebuilt. The others are defects of ours."""


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


class _Handle:
    """A thread's connection, and the file it is open on."""

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
    """`Database` over a file. Several processes of one machine may use it; never put it on a network file system."""

    def __init__(self, path: Path, now_ms: NowMs, files: Path | None = None) -> None:
        """`path` is the link; the builds' files are named after `files`, or after it."""
        self._path = path
        self._files = files or path
        self._now_ms = now_ms
        self._build = 0
        self._writer = _Handle()
        self._readers: list[_Handle] = []
        self._of_thread = threading.local()
        self._write_pool = ThreadPoolExecutor(1, thread_name_prefix="readmodel-writer")
        self._requests = RequestReads(READERS)
        # One more for what the process itself reads: the feed must not wait for lists.
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
        while True:
            written = self._written
            left_s = deadline_s - asyncio.get_running_loop().time()
            if left_s <= 0 or await self.read(last_seq) > after_seq:
                return
            try:
                async with asyncio.timeout(min(TAIL_S, left_s)):
                    await written.wait()
            except TimeoutError:
                continue

    def aside(self) -> "SqliteDatabase":
        link = self._path.with_name(f"{self._path.stem}.rebuilding{self._path.suffix}")
        return SqliteDatabase(link, self._now_ms, self._files)

    async def discard(self) -> None:
        await self.close()
        await asyncio.to_thread(self._remove_all)

    async def promote(self, aside: Database) -> None:
        assert isinstance(aside, SqliteDatabase)
        await aside.close()
        await self._on(self._write_pool, lambda: self._swap(aside))
        self._tell()

    def _swap(self, aside: "SqliteDatabase") -> None:
        before = self._current() if self._path.is_symlink() else None
        after = aside._current()  # noqa: SLF001 - its own kind
        point(self._path, after)
        aside._path.unlink()  # noqa: SLF001 - as above
        for file in self._path.parent.glob(f"{self._files.stem}-*{self._files.suffix}"):
            if file not in (before, after):
                remove(file)

    def _remove_all(self) -> None:
        if self._path.is_symlink():
            remove(self._current())
            self._path.unlink()

    def _tell(self) -> None:
        """Wake all who wait now; who comes later waits for the next write."""
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
                raise  # a statement of ours, or a guard that spoke up: a defect, not a database that is away
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
        return self._follow(self._writer, self._current())

    def _current(self) -> Path:
        """The file that the link names now."""
        try:
            return self._path.parent / self._path.readlink()
        except OSError:
            if self._path.exists():
                raise ConfigurationError(
                    f"{self._path} is a file, where a link to the current build is expected: move it away, and start again"
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
            # A link that names nothing is what is left after somebody deleted the file, in order to start afresh.
            point(self._path, file, only_new=not self._path.is_symlink())
        except FileExistsError:
            remove(file)  # another process was first; its build is as good as ours

    def _shut(self) -> None:
        self._read_pool.shutdown(wait=True)
        self._write_pool.shutdown(wait=True)
        for handle in (self._writer, *self._readers):
            handle.close()


def connect(file: Path) -> sqlite3.Connection:
    """A connection with our settings. One thread at a time uses it; the last one to do so is who closes it."""
    raw = sqlite3.connect(
        f"file:{file}?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        raw.execute("PRAGMA journal_mode=WAL")
        # Rows and offsets are lost together at a power cut, and read again: a sync at each commit would buy nothing.
        raw.execute("PRAGMA synchronous=NORMAL")
        raw.execute("PRAGMA foreign_keys=ON")
    except BaseException:
        raw.close()
        raise
    return raw


@contextmanager
def _ending(raw: sqlite3.Connection, within_ms: int | None) -> Iterator[None]:
    """Interrupt what has taken longer: a statement that nobody waits for any more would hold a reader."""
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
    """Where a build of the read model at `path` is kept."""
    return path.with_name(f"{path.stem}-{build}{path.suffix}")


def create(file: Path, build: int) -> None:
    """A new, empty build. It must not exist."""
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
        raw.execute("COMMIT")
    finally:
        raw.close()


def point(path: Path, file: Path, *, only_new: bool = False) -> None:
    """Let `path` name `file`, at once.

    :raises FileExistsError: `only_new`, and it names something already.
    """
    if only_new:
        path.symlink_to(file.name)
        return
    link = path.with_name(f"{path.name}.{os.getpid()}.link")
    link.unlink(missing_ok=True)
    link.symlink_to(file.name)
    link.replace(path)


def remove(file: Path) -> None:
    """A build's file, with what SQLite keeps beside it. Nobody may have it open."""
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
            f"{file} has schema {meta.get('schema_version')}, this release needs {SCHEMA_VERSION}: run `backstop readmodel rebuild`"
        )
    return int(meta["build"])
