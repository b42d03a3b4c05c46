"""PostgreSQL: psycopg 3 and its pool, on threads, behind the same protocol as SQLite.

Each build is its own schema, `<name>_<build>`; one row in `<name>.current` names the build in use. Every transaction
reads that row first, so a rebuild can swap builds under running processes. Writers hold one advisory lock for the
length of their transaction: sequence numbers of `changes` become visible in order, and no reader skips one.
"""

import asyncio
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import sql
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from backstop.readmodel.database import Database, DatabaseAwayError, RequestReads, Work
from backstop.readmodel.queries import last_seq
from backstop.readmodel.schema import JOBS_VIEW, JOBS_VIEW_COLUMNS, SCHEMA_VERSION, statements
from backstop.runtime.errors import ConfigurationError
from backstop.runtime.process.clock import NowMs

T = TypeVar("T")

CONNECTIONS_MAX = 6
"""Per process: a writer, four readers for requests, and one for the process's own reads."""
CONNECT_TIMEOUT_S = 5.0
STATEMENT_TIMEOUT_MS = 30_000
OPTIONS = f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c idle_in_transaction_session_timeout={STATEMENT_TIMEOUT_MS}"
"""The second timeout releases the writers' lock if a process freezes in the middle of a transaction."""
POLL_AGAIN_S = 1.0
LISTEN_PATIENCE_S = 0.1
"""How soon the listening thread notices that it must stop."""
NAME = "backstop"
CURRENT = "CREATE TABLE IF NOT EXISTS {}.current (one INT PRIMARY KEY, build BIGINT, schema_version INT)"


class PostgresConnection:
    """`Connection` over psycopg."""

    def __init__(self, raw: psycopg.Connection) -> None:
        self._raw = raw

    def rows(self, statement: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._raw.execute(_marks(statement), params).fetchall()

    def execute(self, statement: str, params: Sequence[Any] = ()) -> int:
        return self._raw.execute(_marks(statement), params).rowcount

    def execute_many(self, statement: str, params: Sequence[Sequence[Any]]) -> None:
        if params:
            with self._raw.cursor() as cursor:
                cursor.executemany(_marks(statement), params)

    def take_long(self) -> None:
        self._raw.execute("SET LOCAL statement_timeout = 0")


class PostgresDatabase:
    """`Database` at a URL. `name`: the schema that holds `current`, and the prefix of the builds' schemas."""

    def __init__(self, url: str, now_ms: NowMs, name: str = NAME) -> None:
        self._url = url
        self._now_ms = now_ms
        self._name = name
        self._build = 0
        self._pool = ConnectionPool(
            url, min_size=1, max_size=CONNECTIONS_MAX, timeout=CONNECT_TIMEOUT_S, open=False, name="readmodel",
            kwargs={"connect_timeout": int(CONNECT_TIMEOUT_S), "options": OPTIONS},
            check=ConnectionPool.check_connection, reconnect_timeout=CONNECT_TIMEOUT_S,
        )  # fmt: skip
        self._threads = ThreadPoolExecutor(CONNECTIONS_MAX, thread_name_prefix="readmodel-postgres")
        self._requests = RequestReads(CONNECTIONS_MAX - 2)
        self._opened = False
        self._closed = False
        self._listener: _Listener | None = None
        self._opening = threading.Lock()

    @property
    def build(self) -> int:
        return self._build

    async def open(self) -> None:
        await self._on(self._make)

    async def close(self) -> None:
        self._closed = True
        await asyncio.to_thread(self._shut)

    async def write(self, work: Work[T]) -> T:
        return await self._on(lambda: self._write(work))

    async def read(self, work: Work[T]) -> T:
        async with self._requests.turn() as within_ms:
            return await self._on(lambda: self._read(work, within_ms))

    async def changed(self, after_seq: int, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        if self._listener is None:
            self._listener = _Listener(self._url, self._channel)
        listener = self._listener
        while True:
            waking = listener.waking()
            left_s = deadline_s - loop.time()
            if left_s <= 0 or await self.read(last_seq) > after_seq:
                return
            try:
                async with asyncio.timeout(min(POLL_AGAIN_S, left_s)):
                    await waking
            except TimeoutError:
                continue

    def for_rebuild(self) -> "PostgresDatabase":
        return PostgresDatabase(self._url, self._now_ms, f"{self._name}_rebuilding")

    async def discard(self) -> None:
        await self._on(self._remove_all)
        await self.close()

    async def promote(self, rebuilt: Database) -> None:
        assert isinstance(rebuilt, PostgresDatabase)
        await rebuilt.close()
        await self._on(lambda: self._swap(rebuilt))

    def _swap(self, rebuilt: "PostgresDatabase") -> None:
        with self._connected() as raw, raw.transaction():
            raw.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (self._name,))
            raw.execute(self._sql("CREATE SCHEMA IF NOT EXISTS {}"))
            raw.execute(self._sql(CURRENT))
            before = raw.execute(self._sql("SELECT build FROM {}.current")).fetchone()
            building = rebuilt._sql("SELECT build FROM {}.current")  # noqa: SLF001 - its own kind
            ((after,),) = raw.execute(building).fetchall()
            new, final = f"{rebuilt._name}_{after}", f"{self._name}_{after}"  # noqa: SLF001 - its own kind
            raw.execute(_naming("ALTER SCHEMA {} RENAME TO {}", new, final))
            raw.execute(rebuilt._sql("DROP SCHEMA {} CASCADE"))  # noqa: SLF001 - as above
            point(raw, self._name, after)
            raw.execute("SELECT pg_notify(%s, '')", (self._channel,))
            kept = {after, before[0] if before else after}
            for build in self._builds(raw):
                if build not in kept:
                    raw.execute(_naming("DROP SCHEMA {} CASCADE", f"{self._name}_{build}"))

    def _builds(self, raw: psycopg.Connection) -> list[int]:
        found = raw.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname ~ %s", (f"^{re.escape(self._name)}_[0-9]+$",)
        ).fetchall()
        return [int(schema.rpartition("_")[2]) for (schema,) in found]

    def _remove_all(self) -> None:
        with self._connected() as raw, raw.transaction():
            for build in self._builds(raw):
                raw.execute(_naming("DROP SCHEMA {} CASCADE", f"{self._name}_{build}"))
            raw.execute(self._sql("DROP SCHEMA IF EXISTS {} CASCADE"))

    @property
    def _channel(self) -> str:
        return f"{self._name}_changes"

    async def _on(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise DatabaseAwayError("the database is closed")
        try:
            return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._threads, work))
        except (PoolTimeout, PoolClosed) as error:
            raise DatabaseAwayError(f"PostgreSQL: {error}") from error
        except psycopg.OperationalError as error:
            # A lost connection, a server shutting down, a full disk, a statement timeout: all of these pass.
            raise DatabaseAwayError(f"PostgreSQL: {type(error).__name__}: {error}") from error

    def _write(self, work: Work[T]) -> T:
        with self._connected() as raw, raw.transaction():
            raw.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (self._name,))
            self._enter(raw)
            result = work(PostgresConnection(raw))
            # Once per batch: NOTIFY locks the whole database at commit.
            raw.execute("SELECT pg_notify(%s, '')", (self._channel,))
            return result

    def _read(self, work: Work[T], within_ms: int | None) -> T:
        with self._connected() as raw, raw.transaction():
            raw.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            if within_ms is not None:
                raw.execute("SELECT set_config('statement_timeout', %s, true)", (str(within_ms),))
            self._enter(raw)
            return work(PostgresConnection(raw))

    def _connected(self) -> Any:
        with self._opening:
            if not self._opened:
                self._pool.open()
                self._opened = True
        return self._pool.connection()

    def _enter(self, raw: psycopg.Connection) -> None:
        """Make unqualified names refer to the current build's tables, in this transaction."""
        try:
            found = raw.execute(self._sql("SELECT build, schema_version FROM {}.current")).fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            raise DatabaseAwayError("the read model has not been created yet") from error
        if found is None:
            raise DatabaseAwayError("the read model has not been created yet")
        build, schema_version = found
        if schema_version != SCHEMA_VERSION:
            raise ConfigurationError(
                f"the read model has schema {schema_version}, this release needs {SCHEMA_VERSION}: "
                "run `backstop readmodel rebuild`"
            )
        raw.execute("SELECT set_config('search_path', %s, true)", (f"{self._name}_{build}",))
        self._build = build

    def _make(self) -> None:
        """Create the first build if there is none."""
        with self._connected() as raw, raw.transaction():
            raw.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (self._name,))
            raw.execute(self._sql("CREATE SCHEMA IF NOT EXISTS {}"))
            raw.execute(
                self._sql(
                    "CREATE TABLE IF NOT EXISTS {}.current (one INT PRIMARY KEY, build BIGINT, schema_version INT)"
                )
            )
            if raw.execute(self._sql("SELECT build FROM {}.current")).fetchone() is None:
                build = self._now_ms()
                create(raw, self._name, build)
                point(raw, self._name, build)
            self._enter(raw)
            if raw.execute("SELECT to_regclass(%s)", (f"{self._name}.{JOBS_VIEW}",)).fetchone() == (None,):
                show(raw, self._name, self._build)  # An earlier release made the build.

    def _sql(self, text: LiteralString) -> sql.Composed:
        return _naming(text, self._name)

    def _shut(self) -> None:
        if self._listener is not None:
            self._listener.stop()
        self._threads.shutdown(wait=True)
        self._pool.close(timeout=CONNECT_TIMEOUT_S)


class _Listener:
    """A connection on its own thread that is notified of every commit. While it is down, `changed` polls instead."""

    def __init__(self, url: str, channel: str) -> None:
        self._url = url
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] = self._loop.create_future()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="readmodel-listener", daemon=True)
        self._thread.start()

    def waking(self) -> "asyncio.Future[None]":
        """Done at the next commit by any process. Take it before reading, so that no commit falls in between."""
        return asyncio.shield(self._waiting)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _wake(self) -> None:
        if not self._waiting.done():
            self._waiting.set_result(None)
        self._waiting = self._loop.create_future()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._listen()
            except psycopg.Error:
                self._stop.wait(POLL_AGAIN_S)

    def _listen(self) -> None:
        with psycopg.connect(self._url, autocommit=True, connect_timeout=int(CONNECT_TIMEOUT_S)) as raw:
            raw.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
            while not self._stop.is_set():
                for _ in raw.notifies(timeout=LISTEN_PATIENCE_S, stop_after=1):
                    if not self._loop.is_closed():
                        self._loop.call_soon_threadsafe(self._wake)


def create(raw: psycopg.Connection, name: str, build: int) -> None:
    """Create an empty build in its own schema, within the caller's transaction."""
    schema = sql.Identifier(f"{name}_{build}")
    raw.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
    raw.execute("SELECT set_config('search_path', %s, true)", (f"{name}_{build}",))
    for statement in statements("postgres"):
        raw.execute(statement.encode())
    for key, value in (("build", str(build)), ("schema_version", str(SCHEMA_VERSION))):
        raw.execute("INSERT INTO meta (name, value) VALUES (%s, %s)", (key, value))


def point(raw: psycopg.Connection, name: str, build: int) -> None:
    """Make `build` the current one when the caller's transaction commits."""
    raw.execute(
        sql.SQL(
            "INSERT INTO {}.current (one, build, schema_version) VALUES (1, %s, %s) "
            "ON CONFLICT (one) DO UPDATE SET build = excluded.build, schema_version = excluded.schema_version"
        ).format(sql.Identifier(name)),
        (build, SCHEMA_VERSION),
    )
    show(raw, name, build)


def show(raw: psycopg.Connection, name: str, build: int) -> None:
    """Let the view for other programs show this build's jobs."""
    columns = sql.SQL(", ").join(map(sql.Identifier, JOBS_VIEW_COLUMNS.split(", ")))
    raw.execute(
        sql.SQL("CREATE OR REPLACE VIEW {} AS SELECT {} FROM {}").format(
            sql.Identifier(name, JOBS_VIEW), columns, sql.Identifier(f"{name}_{build}", "jobs")
        )
    )


def _naming(text: LiteralString, *names: str) -> sql.Composed:
    return sql.SQL(text).format(*(sql.Identifier(name) for name in names))


def _marks(statement: str) -> bytes:
    """Replace `?` by psycopg's `%s`; the SQL holds no other question mark and no percent sign."""
    return statement.replace("?", "%s").encode()
