"""`database`: each kind of database in turn, empty. Every test that takes it is part of the conformance suite."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from readmodel.database import Database
from readmodel.sqlite import SqliteDatabase

T = TypeVar("T")
NOW_MS = 1_700_000_000_000


class Bench:
    """Makes databases of one kind, all on the same content, and closes them."""

    def __init__(self, make: Callable[[], Database]) -> None:
        self._make = make
        self._made: list[Database] = []

    def another(self) -> Database:
        """One more process's view of the same read model."""
        database = self._make()
        self._made.append(database)
        return database

    async def close(self) -> None:
        for database in self._made:
            await database.close()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(lambda: SqliteDatabase(tmp_path / "readmodel.db", lambda: NOW_MS))


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
