"""Measures the read model's answers with many jobs: every list filter, search, figures and findings. SQLite, no broker.

    python -m bench.lists [--jobs 1000000] [--repeats 40] [--keep FILE]

Writes the rows straight into the tables (a projection of a million jobs would take ten minutes), of 5 tenants, 20
models, 5,000 sessions and 1,000 tags, 1 % open. Then asks each question as a request does, in one transaction on one
connection. Prints p50 and p99 in milliseconds of processor time, which other work on the machine does not change, and
exits 1 where a p99 is above its goal.
"""

import argparse
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from backstop.readmodel import queries
from backstop.readmodel.ledger import spent_by_period
from backstop.readmodel.lists import Cursor, JobFilter, list_rows, sights_of
from backstop.readmodel.log_places import log_places
from backstop.readmodel.minutes import refused_by_period, write_refusals
from backstop.readmodel.refusals import CreateRefusal
from backstop.readmodel.rows import JobRow, Position, Wait
from backstop.readmodel.search import search
from backstop.readmodel.settings import ProjectionSettings
from backstop.readmodel.spending import MINUTE_MS, minute_name
from backstop.readmodel.sqlite import SqliteConnection, connect, create
from backstop.readmodel.store import JOB_COLUMNS, row_values
from backstop.readmodel.sweep import sweep
from backstop.runtime.read_settings import read
from schemas.statuses import JobStatus

HOUR_MS = 3_600_000
NOW_MS = 1_700_000_000_000
DAY_MS = 24 * HOUR_MS
WEEK_AGO_MS = NOW_MS - 7 * DAY_MS
WEEK_MINUTES = 7 * 1_440
LIST_MS, SEARCH_MS, STATUS_MS = 50.0, 20.0, 100.0
TENANTS = ("acme", "beta", "gamma", "delta", "default")
ENDS: tuple[JobStatus, ...] = ("completed", "failed", "cancelled", "expired", "incomplete")
OPEN: tuple[JobStatus, ...] = ("submitting", "running", "backing_off", "waiting")
BATCH = 20_000

Ask = Callable[[SqliteConnection], Any]


def row_of(number: int, jobs: int, draw: random.Random) -> JobRow:
    """The job with this number; the last ones are the newest."""
    tenant = TENANTS[number % 10 % 5]
    at_ms = NOW_MS - (jobs - number) * (30 * DAY_MS // jobs)
    job_id = f"{'' if tenant == 'default' else tenant + ':'}job-{number:08}"
    is_open = draw.random() < 0.01
    status = draw.choice(OPEN) if is_open else draw.choices(ENDS, (90, 6, 2, 1, 1))[0]
    spent_ms = draw.randrange(1_000, 60_000)
    ended: dict[str, Any] = {} if is_open else {
        "finished_at_ms": at_ms + spent_ms, "queued_ms": 500, "running_ms": spent_ms, "webhook_lag_ms": 20,
        "detection_ms": 30, "input_tokens": 100, "output_tokens": 500, "found_by": "webhook",
        "result": b'{"outcome":"completed","response":{"value":"' + b"x" * 300 + b'"}}',
    }  # fmt: skip
    wait = Wait("webhook", at_ms, NOW_MS + HOUR_MS, "running", "it runs", f"resp_{number:08}") if is_open else None
    return JobRow(
        job_id, tenant, status, 4, b"{" + b"y" * 200 + b"}", at_ms, at_ms + spent_ms,
        Position("jobs", number % 8, number), model=f"model-{draw.choices(range(20), range(1, 21))[0]}",
        session_id=f"s{draw.randrange(5_000)}" if number % 2 else None,
        tags=(f"tag-{draw.randrange(1_000)}", "common") if number % 3 == 0 else (),
        deadline_at_ms=at_ms + 40 * DAY_MS, next_action_at_ms=NOW_MS + HOUR_MS if is_open else None, attempts=1,
        wait=wait, **ended,
    )  # fmt: skip


def fill(raw: sqlite3.Connection, jobs: int) -> None:
    draw = random.Random(1)
    marks = ", ".join("?" * len(JOB_COLUMNS.split(", ")))
    for first in range(0, jobs, BATCH):
        rows = [row_of(number, jobs, draw) for number in range(first, min(jobs, first + BATCH))]
        raw.execute("BEGIN")
        raw.executemany(f"INSERT INTO jobs ({JOB_COLUMNS}) VALUES ({marks})", [row_values(row) for row in rows])
        raw.executemany("INSERT INTO job_tags VALUES (?, ?)", [(tag, row.job_id) for row in rows for tag in row.tags])
        raw.executemany(
            "INSERT INTO claims VALUES (?, ?, ?)",
            [(f"resp_{row.position.offset:08}", row.job_id, row.submitted_at_ms) for row in rows],
        )
        raw.executemany(
            "INSERT INTO timeline VALUES (?, ?, 'jobs', ?, ?, 'job_submitted', '{}')",
            [(row.job_id, row.submitted_at_ms, row.position.partition, row.position.offset) for row in rows],
        )
        raw.execute("COMMIT")
    fill_minutes(raw)
    # As `PRAGMA optimize` is not run by the product, no statistics are gathered here either.


def fill_minutes(raw: sqlite3.Connection) -> None:
    """A week in which a tenant was refused and paid in every minute, with two models."""
    conn, first = SqliteConnection(raw), WEEK_AGO_MS // MINUTE_MS
    raw.execute("BEGIN")
    write_refusals(conn, {CreateRefusal("acme", first + minute, "limited"): 3 for minute in range(WEEK_MINUTES)})
    raw.executemany(
        f"INSERT INTO costs VALUES ('minute', 'acme', ?, ?, ?, '', '', 0, 'completed', '', ?, {', '.join('5' * 11)})",
        [
            ((first + minute) * MINUTE_MS // DAY_MS, model, model, minute_name(first + minute))
            for minute in range(WEEK_MINUTES)
            for model in ("gpt-5", "gpt-5-mini")
        ],
    )
    raw.execute("COMMIT")


def lists() -> Iterator[tuple[str, JobFilter]]:
    """Every filter alone, with each other one, and far into the list."""
    filters: dict[str, dict[str, Any]] = {
        "model": {"model": "model-7"}, "session": {"session_id": "s77"}, "tag of few": {"tag": "tag-77"},
        "tag of many": {"tag": "common"}, "tag of none": {"tag": "never"}, "completed": {"statuses": ("completed",)},
        "expired": {"statuses": ("expired",)}, "waiting": {"statuses": ("waiting",)}, "open": {"statuses": OPEN},
        "ended": {"statuses": ENDS}, "last hour": {"since_ms": NOW_MS - HOUR_MS},
        "model of none": {"model": "never"},
    }  # fmt: skip
    yield "all", JobFilter("acme")
    for name, each in filters.items():
        yield name, JobFilter("acme", **each)
        for other, more in filters.items():
            if name < other and not each.keys() & more.keys():
                yield f"{name}, {other}", JobFilter("acme", **each, **more)
    deep = Cursor(NOW_MS - 25 * DAY_MS, "acme:job-00100000")
    for name, each in {"all": {}, **filters}.items():
        yield f"{name}, page far back", JobFilter("acme", **each, after=deep)
    yield "all, 200 a page", JobFilter("acme", limit=200)


def questions(jobs: int) -> Iterator[tuple[str, float, Ask]]:
    for name, wanted in lists():
        yield f"list: {name}", LIST_MS, partial(_page, wanted=wanted)
    middle, prices = jobs // 2, read(ProjectionSettings).prices()
    for name, given in {
        "job": f"job-{middle:08}", "response": f"resp_{middle:08}", "session": "s77", "nothing": "nope-nope",
        "beginning of jobs": "job-0", "beginning of responses": "resp_0", "beginning, other tenants'": "resp_00000",
    }.items():  # fmt: skip
        yield f"search: {name}", SEARCH_MS, partial(search, tenant="acme", given=given)
    yield "findings of all tenants", STATUS_MS, lambda conn: sweep(conn, NOW_MS, 90_000)
    yield "findings of one tenant", STATUS_MS, lambda conn: sweep(conn, NOW_MS, 90_000, "acme")
    yield "figures of the last hour", STATUS_MS, lambda conn: queries.ended_since(conn, "acme", NOW_MS - HOUR_MS, 5_000)
    yield "places of a job", SEARCH_MS, lambda conn: log_places(conn, f"acme:job-{middle:08}")
    yield "refused creates of a week", STATUS_MS, lambda conn: refused_by_period(conn, "acme", WEEK_AGO_MS, 3 * HOUR_MS)
    yield "costs of a week", STATUS_MS, lambda conn: spent_by_period(conn, "acme", WEEK_AGO_MS, 3 * HOUR_MS, prices)
    yield "load of a tenant, one day", STATUS_MS, lambda conn: queries.tenant_load(conn, "acme", NOW_MS - DAY_MS, ())


def _page(conn: SqliteConnection, wanted: JobFilter) -> None:
    """As `GET /v1/jobs` reads it."""
    sights_of(conn, list_rows(conn, wanted).rows, NOW_MS)


def measured(raw: sqlite3.Connection, ask: Ask, repeats: int) -> tuple[float, float]:
    took_ms = []
    for _ in range(repeats):
        began_s = time.process_time()
        raw.execute("BEGIN")
        ask(SqliteConnection(raw))
        raw.execute("COMMIT")
        took_ms.append((time.process_time() - began_s) * 1000)
    return statistics.median(took_ms), sorted(took_ms)[min(len(took_ms) - 1, len(took_ms) * 99 // 100)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.lists", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--keep", type=Path, help="the database; filled where it does not exist, and kept")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="backstop-bench-") as folder:
        file = given.keep or Path(folder) / "readmodel.db"
        if not file.exists():
            create(file, 1)
            fill(connect(file), given.jobs)
        raw = connect(file)
        found = {}
        for name, goal_ms, ask in questions(given.jobs):
            p50, p99 = measured(raw, ask, given.repeats)
            found[name] = {"p50_ms": round(p50, 2), "p99_ms": round(p99, 2), "goal_ms": goal_ms, "met": p99 <= goal_ms}
        raw.close()
    print(json.dumps(found, indent=1))
    return 0 if all(each["met"] for each in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
