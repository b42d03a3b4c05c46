"""A projection as a process of its own, its topics and its database, and what the database must hold."""

import asyncio
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from backstop.readmodel import store
from backstop.readmodel.batch import Known, ParsedRecord, project
from backstop.readmodel.database import Connection
from backstop.readmodel.opening import database_at
from backstop.readmodel.rows import JobRow, Position
from backstop.readmodel.settings import ProjectionSettings
from backstop.runtime.kafka.headers import event_headers
from backstop.runtime.kafka.topics import create_topics
from schemas.codec import encode
from tests.support.children import BACKSTOP, child
from tests.support.waiting import wait_until
from tests.unit.backstop.readmodel.logs import whole_job
from tests.unit.backstop.readmodel.postgres_server import Server, postgres

PARTITIONS = 3
ROOT = Path(__file__).parents[2]


class Rig:
    """A prefix with its topics, and one database."""

    def __init__(self, bootstrap: str, prefix: str, folder: Path, url: str | None = None) -> None:
        self.settings = ProjectionSettings(
            kafka_bootstrap_servers=bootstrap,
            topic_prefix=prefix,
            partitions=PARTITIONS,
            data_dir=folder,
            database_url=url,
        )
        self.path = folder / "readmodel.db"
        self.log = folder / "projection.log"
        asyncio.run(create_topics(self.settings))

    def environment(self, failpoints: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "KAFKA_BOOTSTRAP_SERVERS": self.settings.kafka_bootstrap_servers,
            "BACKSTOP_TOPIC_PREFIX": self.settings.topic_prefix,
            "BACKSTOP_PARTITIONS": str(PARTITIONS),
            "BACKSTOP_DATA_DIR": str(self.settings.data_dir),
            "BACKSTOP_DATABASE_URL": self.settings.readmodel_url,
            "BACKSTOP_READMODEL_BATCH_RECORDS_MAX": "20",
            "BACKSTOP_LOG_FORMAT": "json",
            "BACKSTOP_FAILPOINTS": failpoints,
        }

    @contextmanager
    def projection(self, failpoints: str = "", *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """`backstop projection`, or what `backstop readmodel` is asked for; killed at the end, if it still lives."""
        command = ("readmodel", *arguments) if arguments else ("projection",)
        with child([*BACKSTOP, *command], self.environment(failpoints), self.log) as process:
            yield process

    def publish(self, facts: Sequence, transactional_id: str | None = None, raw: Sequence[tuple] = ()) -> None:
        async def send() -> None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self.settings.kafka_bootstrap_servers,
                transactional_id=transactional_id,
                enable_idempotence=True,
                acks="all",
            )
            await producer.start()
            try:
                if transactional_id is None:
                    await self._send(producer, facts, raw)
                else:
                    async with producer.transaction():
                        await self._send(producer, facts, raw)
            finally:
                await producer.stop()

        asyncio.run(send())

    async def _send(self, producer: AIOKafkaProducer, facts: Sequence, raw: Sequence[tuple]) -> None:
        prefix = self.settings.topic_prefix
        waits = [
            await producer.send(
                f"{prefix}{fact.topic}", encode(fact), key=fact.key.encode(), headers=event_headers(fact, "test")
            )
            for fact in facts
        ]
        waits += [await producer.send(f"{prefix}{topic}", value, key=key) for topic, key, value in raw]
        await asyncio.gather(*waits)

    def read(self, work):
        async def once():
            database = database_at(self.settings.readmodel_url, lambda: 0)
            try:
                return await database.read(work)
            finally:
                await database.close()

        return asyncio.run(once())

    def finished(self) -> int:
        return self.read(lambda conn: conn.rows("SELECT COUNT(*) FROM jobs WHERE status = 'completed'"))[0][0]

    def wait_for(self, *batches: Sequence, timeout_s: float = 60) -> None:
        """Until all facts of these batches are in the database, of whatever topic: each has its line in a timeline."""
        count = sum(len(facts) for facts in batches)
        taken = "SELECT (SELECT COUNT(*) FROM timeline), (SELECT COUNT(*) FROM held_results)"
        wait_until(
            lambda: self.read(lambda conn: conn.rows(taken)) == [(count, 0)], timeout_s, f"{count} facts to be taken"
        )

    def said(self, event: str) -> int:
        return self.log.read_text().count(f'"event":"{event}"')


@pytest.fixture
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg_pool", reason="psycopg is not installed (the extra `postgres`)")
    with postgres() as running:
        if running is None:
            pytest.skip("PostgreSQL is not installed")
        yield running


def rebuild(rig: Rig, failpoints: str = "", *arguments: str) -> int:
    with rig.projection(failpoints, "rebuild", *arguments) as process:
        return process.wait(60)


def jobs(count: int, first: int = 0) -> list:
    return [fact for n in range(first, first + count) for fact in whole_job(f"j{n}", f"resp_{n}", tags=("t",))]


def content(conn: Connection) -> tuple[dict[str, JobRow], frozenset, list]:
    """Rows and timelines without the places that depend on the partitioning, and what is left over."""
    rows = {values[0]: store.row_from(values) for values in conn.rows(f"SELECT {store.JOB_COLUMNS} FROM jobs")}
    entries = frozenset(conn.rows("SELECT job_id, at_ms, kind, summary FROM timeline"))
    return rows, entries, conn.rows("SELECT * FROM held_results") + conn.rows("SELECT * FROM unclaimed")


def assert_is_the_fold_of(rig: Rig, facts: Sequence) -> None:
    """I6: what the database holds is what the pure projection makes of the same facts."""
    records = [ParsedRecord(Position(fact.topic, 0, n), fact, encode(fact)) for n, fact in enumerate(facts)]
    wanted = project(records, Known())
    rows, entries, left = rig.read(content)
    assert {k: strip(row) for k, row in rows.items()} == {k: strip(row) for k, row in wanted.rows.items()}
    assert entries == {(e.job_id, e.at_ms, e.kind, e.summary) for e in wanted.timeline}
    assert left == []


def strip(row: JobRow) -> JobRow:
    return row._replace(position=Position(row.position.topic, 0, 0))
