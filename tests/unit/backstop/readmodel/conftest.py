"""`database`: each kind of database in turn, empty. Every test that takes it is part of the conformance suite."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import pytest

from backstop.readmodel.database import Database
from backstop.readmodel.sqlite import SqliteDatabase
from backstop.runtime.process.clock import NowMs
from tests.unit.backstop.readmodel.postgres_server import Server, postgres

T = TypeVar("T")
NOW_MS = 1_700_000_000_000
_names = itertools.count(1)


class Bench:
    """Makes databases of one kind, all on the same content, and closes them."""

    def __init__(self, make: Callable[[NowMs], Database], builds: Callable[[], list[int]]) -> None:
        self.now_ms = NOW_MS
        """The time of the databases' clock."""
        self._make = make
        self.builds = builds
        """The numbers of all existing builds, in order."""
        self._made: list[Database] = []

    def another(self) -> Database:
        """Another process's `Database` over the same read model."""
        database = self._make(lambda: self.now_ms)
        self._made.append(database)
        return database

    async def close(self) -> None:
        for database in self._made:
            await database.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    with postgres() as server:
        if server is None:
            pytest.skip(
                "PostgreSQL is not installed (no /usr/lib/postgresql/*/bin/initdb): its half of the suite is not run"
            )
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    if request.param == "sqlite":
        return Bench(
            lambda now_ms: SqliteDatabase(tmp_path / "readmodel.db", now_ms),
            lambda: sorted(int(file.stem.rpartition("-")[2]) for file in tmp_path.glob("readmodel-*.db")),
        )
    pytest.importorskip(
        "psycopg_pool", reason="psycopg is not installed (the extra `postgres`): half of the suite is not run"
    )
    kind = import_module("backstop.readmodel.postgres").PostgresDatabase
    server: Server = request.getfixturevalue("postgres_server")
    name = f"t{next(_names)}"
    return Bench(lambda now_ms: kind(server.url, now_ms, name), lambda: builds_of(server, name))


def builds_of(server: Server, name: str) -> list[int]:
    with import_module("psycopg").connect(server.url) as raw:
        names = raw.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE %s", (f"{name}\\_%",)).fetchall()
    return sorted(int(found.rpartition("_")[2]) for (found,) in names)


@pytest.fixture
def run(bench: Bench) -> Callable[[Callable[[Bench], Coroutine[Any, Any, T]]], T]:
    """Run an async test body with the bench, and close what it opened."""

    def runner(body: Callable[[Bench], Coroutine[Any, Any, T]]) -> T:
        async def whole() -> T:
            try:
                return await body(bench)
            finally:
                await bench.close()

        return asyncio.run(whole())

    return runner
