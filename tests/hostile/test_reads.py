"""A list walks few rows with any filter, and reads of one tenant leave readers for another."""

import asyncio
import sqlite3
import threading
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from backstop.readmodel import database as databases
from backstop.readmodel.database import Connection, DatabaseAwayError
from backstop.readmodel.lists import WALKED_A_ROW, Cursor, JobFilter, list_rows
from backstop.readmodel.queries import tenant_load
from backstop.readmodel.sqlite import SqliteConnection, SqliteDatabase
from backstop.runtime.authority import on_behalf_of
from tests.support.waiting import eventually

JOBS = 20_000
STATUSES = ("completed", "failed", "running")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tenant with many jobs, of which each filter finds few."""
    folder = tmp_path_factory.mktemp("filled")
    path = folder / "readmodel.db"

    def fill(conn: Connection) -> None:
        rows = [
            (f"j{number}", "t", "completed" if number % 2_000 else "failed", 1, b"", number, number, "jobs", 0, number,
             "common" if number % 3_000 else "rare", "s" if number % 2 else None, "[]", 1)
            for number in range(JOBS)
        ]  # fmt: skip
        conn.execute_many(
            "INSERT INTO jobs (job_id, tenant, status, version, fold_state, submitted_at_ms, updated_at_ms, topic, "
            "part, log_offset, model, session_id, tags, attempts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )  # fmt: skip
        conn.execute_many(
            "INSERT INTO job_tags (tag, job_id) VALUES (?, ?)", [("x", f"j{n}") for n in range(0, JOBS, 5_000)]
        )

    async def run() -> None:
        database = SqliteDatabase(path, lambda: 1)
        await database.open()
        await database.write(fill)
        await database.close()

    asyncio.run(run())
    return path


FILTERS = [
    {"statuses": statuses, "model": model, "session_id": session, "tag": tag, "since_ms": since}
    for statuses, model, session, tag, since in product(
        ((), ("failed",), ("failed", "queued", "failed"), STATUSES),
        (None, "rare", "none"),
        (None, "s"),
        (None, "x"),
        (None, 5),
    )
]


@pytest.mark.parametrize("chosen", FILTERS, ids=str)
def test_no_list_walks_more_rows_than_it_shows_times_a_constant(filled: Path, chosen: dict[str, Any]) -> None:
    raw = sqlite3.connect(filled.parent / filled.readlink(), isolation_level=None)
    conn, limit, steps = SqliteConnection(raw), 5, 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    raw.set_progress_handler(count, 100)
    try:
        after: Cursor | None = None
        shown: list[str] = []
        for _ in range(JOBS):
            steps = 0
            page = list_rows(conn, JobFilter("t", **chosen, after=after, limit=limit))
            # About 30 steps of SQLite's machine a row that is walked, and 60 a row that is shown.
            assert steps * 100 <= 100 * limit * WALKED_A_ROW * max(1, len(chosen["statuses"])), "walked too far"
            shown += [row.job_id for row in page.rows]
            after = page.next
            if after is None or len(shown) > 200:
                break
    finally:
        raw.set_progress_handler(None, 0)
    expected = [name for name in _as_asked(conn, chosen) if len(shown) <= 200 or name in shown]
    raw.close()
    assert shown == expected, "page after page, all that is there, newest first, each once"


def _as_asked(conn: Connection, chosen: dict[str, Any]) -> list[str]:
    tagged = {name for (name,) in conn.rows("SELECT job_id FROM job_tags WHERE tag = 'x'")}
    return [
        job_id
        for job_id, status, model, session, at_ms in conn.rows(
            "SELECT job_id, status, model, session_id, submitted_at_ms FROM jobs "
            "ORDER BY submitted_at_ms DESC, job_id DESC"
        )
        if (not chosen["statuses"] or status in chosen["statuses"])
        and chosen["model"] in (None, model)
        and chosen["session_id"] in (None, session)
        and (chosen["tag"] is None or job_id in tagged)
        and at_ms >= (chosen["since_ms"] or 0)
    ]


def test_a_tenants_load_is_asked_of_indexes_alone(filled: Path) -> None:
    raw = sqlite3.connect(filled.parent / filled.readlink())
    told: list[str] = []

    class Explaining(SqliteConnection):
        def rows(self, sql: str, params: Any = ()) -> list[tuple[Any, ...]]:
            told.extend(str(row[3]) for row in super().rows(f"EXPLAIN QUERY PLAN {sql}", params))
            return super().rows(sql, params)

    tenant_load(Explaining(raw), "t", 5, ())
    raw.close()
    assert len(told) == 3
    assert all("COVERING INDEX" in plan for plan in told), told


def test_slow_reads_of_one_tenant_leave_readers_for_others_and_for_ourselves(tmp_path: Path) -> None:
    async def story() -> None:
        database = SqliteDatabase(tmp_path / "readmodel.db", lambda: 1)
        await database.open()
        go_on, running = threading.Event(), []

        async def slow() -> None:
            def occupy(_conn: object) -> bool:
                running.append(1)
                return go_on.wait(30)

            with on_behalf_of(("greedy", "k")):
                await database.read(occupy)

        asking = [asyncio.create_task(slow()) for _ in range(40)]
        await eventually(lambda: len(running) >= 3)
        with on_behalf_of(("honest", "k")):
            async with asyncio.timeout(2):
                assert await database.read(lambda conn: conn.rows("SELECT 1")) == [(1,)]
        async with asyncio.timeout(2):
            assert await database.read(lambda conn: conn.rows("SELECT 1")) == [(1,)]
        assert len(running) == 3
        go_on.set()
        await asyncio.gather(*asking)
        assert len(running) == 40
        await database.close()

    asyncio.run(story())


def test_a_statement_of_a_request_ends_in_time_and_one_of_our_own_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "READ_WITHIN_MS", 50)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT COUNT(*) FROM n"

    async def story() -> None:
        database = SqliteDatabase(tmp_path / "readmodel.db", lambda: 1)
        await database.open()
        with on_behalf_of(("t", "k")):
            with pytest.raises(DatabaseAwayError, match="interrupted"):
                await asyncio.wait_for(database.read(lambda conn: conn.rows(endless.format(10**12))), 10)
            assert await database.read(lambda conn: conn.rows("SELECT 1")) == [(1,)], "the reader is free again"
        assert await database.read(lambda conn: conn.rows(endless.format(10**6))) == [(10**6,)]
        await database.close()

    asyncio.run(story())
