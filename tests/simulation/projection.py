"""The read model of a run's logs: the real store on SQLite in memory, two projections that fence each other, and
crashes.

It runs after the run, on the finished logs: partitions at different speeds, batches of any size, a transaction that is
lost, a batch that is read again, and a zombie that worked out its rows before it lost its partitions.
"""

import sqlite3
from bisect import bisect_left
from collections.abc import Sequence
from random import Random
from typing import Any

from backstop.readmodel import store
from backstop.readmodel.batch import ParsedRecord as Parsed
from backstop.readmodel.batch import Writes, keys_of, project
from backstop.readmodel.database import FencedError
from backstop.readmodel.parse import parse
from backstop.readmodel.schema import statements
from backstop.readmodel.sqlite import SqliteConnection
from backstop.readmodel.store import Move, OwnedPartition
from schemas.codec import PoisonError
from tests.simulation.broker import Broker, Record
from tests.simulation.chaos import EPOCH_MS, Met

Place = tuple[str, int]

CRASH = 0.15
ZOMBIE = 0.1


class _Unguarded(SqliteConnection):
    """Writes rows of any version, and moves offsets without ownership."""

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        super().execute(sql, params)
        return 1

    def execute_many(self, sql: str, params: Sequence[Sequence[Any]]) -> None:
        sql = sql.replace(" WHERE excluded.version > jobs.version", "").replace("INSERT INTO", "INSERT OR REPLACE INTO")
        super().execute_many(sql, params)


class ReadModel:
    """`unguarded` leaves out the fence of offsets, the guard of versions and the triggers."""

    def __init__(self, random: Random, broker: Broker, met: Met, *, unguarded: bool) -> None:
        self._random = random
        self._met = met
        self._unguarded = unguarded
        self._logs = _logs(broker)
        self._raw = sqlite3.connect(":memory:", isolation_level=None)
        for statement in statements("sqlite"):
            if not (unguarded and "TRIGGER" in statement):
                self._raw.execute(statement)
        self.conn = (_Unguarded if unguarded else SqliteConnection)(self._raw)
        self._owned: dict[Place, OwnedPartition] = {}
        self.repeated: list[str] = []

    def close(self) -> None:
        self._raw.close()

    def run(self) -> None:
        """Until each log is read to its end."""
        self._take_over()
        random = self._random
        while open_places := [place for place in self._logs if self._next(place)]:
            place = random.choice(open_places)
            records = self._next(place)[: random.choice((3, 40, 300))]
            draw = random.random()
            if draw < CRASH:
                self._crash(place, records)
            elif draw < CRASH + ZOMBIE:
                self._wake_a_zombie(place, records)
            else:
                self._apply(place, records)

    def rows(self) -> list[tuple[Any, ...]]:
        return self.conn.rows(f"SELECT {store.JOB_COLUMNS} FROM jobs ORDER BY job_id")

    def timeline(self) -> list[tuple[Any, ...]]:
        return self.conn.rows("SELECT * FROM timeline ORDER BY job_id, at_ms, topic, part, log_offset")

    def offsets(self) -> dict[Place, int]:
        return store.offsets(self.conn)

    def _take_over(self) -> None:
        self._raw.execute("BEGIN")
        self._owned = store.claim(self.conn, self._logs)
        self._raw.execute("COMMIT")

    def _next(self, place: Place) -> list[Record]:
        at = self._owned[place].next_offset
        log = self._logs[place]
        return log[bisect_left(log, at, key=lambda record: record.offset) :]

    def _apply(self, place: Place, records: Sequence[Record]) -> None:
        self._raw.execute("BEGIN")
        writes = store.apply(self.conn, [self._move(place, records)], _parsed(place, records), EPOCH_MS, 1, tell=False)
        self._raw.execute("COMMIT")
        self._done(place, records, writes)

    def _done(self, place: Place, records: Sequence[Record], writes: Writes) -> None:
        self._owned[place] = OwnedPartition(records[-1].offset + 1, self._owned[place].epoch)
        self.repeated += writes.repeated_results

    def _crash(self, place: Place, records: Sequence[Record]) -> None:
        """Dead in the transaction, or just after it: the next one begins where the database says."""
        committed = self._random.random() < 0.5
        self._met.add("projection died after its commit" if committed else "projection died in its transaction")
        self._raw.execute("BEGIN")
        writes = store.apply(self.conn, [self._move(place, records)], _parsed(place, records), EPOCH_MS, 1, tell=False)
        self._raw.execute("COMMIT" if committed else "ROLLBACK")
        if committed:
            self.repeated += writes.repeated_results
        self._take_over()

    def _wake_a_zombie(self, place: Place, records: Sequence[Record]) -> None:
        """It has worked out its rows; another takes over and goes further; then it writes."""
        parsed = _parsed(place, records)
        stale = project(parsed, store.load(self.conn, keys_of(parsed)))
        move = self._move(place, records)
        self._take_over()
        self._apply(place, records)
        further = self._next(place)[:50]
        if further:
            self._apply(place, further)
        self._raw.execute("BEGIN")
        try:
            store._advance(self.conn, move)
            store._write(self.conn, stale)
            self._raw.execute("COMMIT")
        except FencedError:
            self._met.add("projection fenced off")
            self._raw.execute("ROLLBACK")

    def _move(self, place: Place, records: Sequence[Record]) -> Move:
        owned = self._owned[place]
        return Move(*place, old=owned.next_offset, new=records[-1].offset + 1, epoch=owned.epoch)


def _parsed(place: Place, records: Sequence[Record]) -> list[Parsed]:
    found: list[Parsed] = []
    for record in records:
        try:
            parsed = parse(place, record)  # type: ignore[arg-type]  # has what is read of one
        except PoisonError:
            continue
        if parsed is not None:
            found.append(parsed)
    return found


def _logs(broker: Broker) -> dict[Place, list[Record]]:
    """What a `read_committed` consumer of the three topics sees."""
    logs: dict[Place, list[Record]] = {}
    for partition in range(broker.partitions):
        for topic in ("jobs", "responses"):
            logs[topic, partition] = broker.logs[topic, partition].records
        logs["results", partition] = [
            Record("results", partition, offset, EPOCH_MS, job_id.encode(), value)
            for offset, job_id, value in broker.results[partition].records
        ]
    return logs
