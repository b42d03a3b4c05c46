"""Topics in memory, and a worker that folds them like the real one: per batch, outputs and then changelog rows."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace
from typing import Any

from aiokafka.partitioner import murmur2

from backstop.audit.read_rows import ReadModel, ReadRow
from backstop.audit.refold import FOLDS, changelog
from backstop.audit.report import Report
from backstop.audit.verify import verify
from backstop.readmodel import batch
from backstop.readmodel.batch import Known, project
from backstop.readmodel.rows import Position
from backstop.runtime.kafka.dead_letters import dead_letter
from backstop.runtime.records import Partition, Record
from schemas.base import Message
from schemas.codec import encode, sha256_hex
from schemas.jobs import JOB_FACT
from schemas.results import RESULT, JobResult
from streams.fold.batch import fold_batch
from tests.support import builders as b

PREFIX = "t."
PARTITIONS = 2
OUTPUTS = ("results", "submissions", "polls", "dead-letters")
LOGS = ("jobs", "responses")


class World:
    def __init__(self, *jobs: str) -> None:
        self.records: dict[Partition, list[Record]] = defaultdict(list)
        self.begin: dict[Partition, int] = {}
        self.gaps: set[tuple[str, int, int]] = set()
        self.folded: dict[Partition, int] = defaultdict(int)
        self.rows: dict[Partition, dict[bytes, bytes]] = defaultdict(dict)
        for number, job_id in enumerate(jobs):
            self.whole_job(job_id, b.T0 + 1_000 * number)

    def put(self, topic: str, key: bytes | None, value: bytes | None, at_ms: int = b.T0) -> Record:
        partition = (murmur2(key or b"") & 0x7FFFFFFF) % PARTITIONS
        return self.append((topic, partition), key, value, at_ms)

    def append(self, at: Partition, key: bytes | None, value: bytes | None, at_ms: int) -> Record:
        record = Record(*at, len(self.records[at]), at_ms, key, value)
        self.records[at].append(record)
        return record

    def tell(self, *messages: Message) -> None:
        for message in messages:
            self.put(message.topic, message.key.encode(), encode(message), message.at_ms)

    def work(self) -> None:
        """Fold until no new output appears."""
        while any(self._fold(topic, partition) for topic in FOLDS for partition in range(PARTITIONS)):
            pass

    def whole_job(self, job_id: str, at_ms: int = b.T0, response_id: str | None = None) -> None:
        """A job that is submitted, accepted, announced by webhook, polled and settled."""
        rid = response_id or f"resp_{job_id}"
        self.tell(b.submitted(at_ms, job_id=job_id))
        self.work()
        self.tell(b.accepted(at_ms + 10, job_id=job_id, response_id=rid))
        self.work()
        self.tell(b.webhook(at_ms + 20, response_id=rid, webhook_id=f"wh_{rid}"))
        self.work()
        self.tell(b.observed(at_ms + 30, response_id=rid))
        self.work()

    def topic(self, topic: str) -> list[Record]:
        return [record for at, records in self.records.items() if at[0] == topic for record in records]

    def replace(self, record: Record, **changes: Any) -> None:
        """Plant a difference."""
        self.records[record.topic, record.partition][record.offset] = replace(record, **changes)

    def remove(self, record: Record) -> None:
        """Leave a gap, as compaction does."""
        self.gaps.add((record.topic, record.partition, record.offset))

    def row(self, log: str, key: str) -> Record:
        """The last changelog record of a key."""
        return [record for record in self.topic(changelog(log)) if record.key == key.encode()][-1]

    def read_model(self) -> ReadModel:
        """The rows that the projection derives from these logs."""
        placed = [r for r in (*self.topic("jobs"), *self.topic("results")) if r.value is not None]
        records = [
            batch.ParsedRecord(
                Position(r.topic, r.partition, r.offset),
                (JOB_FACT if r.topic == "jobs" else RESULT).validate_json(r.value or b""),
                r.value or b"",
            )
            for r in placed
        ]
        rows = project(records, Known()).rows
        return ReadModel(
            offsets={at: len(self.records[at]) for topic in ("jobs", "results") for at in self.partitions(topic)},
            rows={
                job_id: ReadRow(
                    row.status, row.version, sha256_hex(row.fold_state), sha256_hex(row.result) if row.result else None,
                    row.next_action_at_ms, f"{row.position.topic}:{row.position.partition}:{row.position.offset}",
                )
                for job_id, row in rows.items()
            },
            submitted_at_ms={job_id: row.submitted_at_ms for job_id, row in rows.items()},
        )  # fmt: skip

    def verify(self, settle_s: float = 0.0, read_model: ReadModel | None = None) -> Report:
        return asyncio.run(verify(Reader(self), prefix=PREFIX, settle_s=settle_s, read_model=read_model))

    def partitions(self, topic: str) -> list[Partition]:
        return [(topic, number) for number in range(PARTITIONS)]

    def _fold(self, topic: str, partition: int) -> bool:
        at, fold = (topic, partition), FOLDS[topic]
        batch = self.records[at][self.folded[at] :]
        if not batch:
            return False
        folded = fold_batch(fold, self.rows[at].get, batch)
        for record, error in folded.poisons:
            named = replace(record, topic=f"{PREFIX}{record.topic}")
            self.tell(dead_letter(named, error, fold.name, record.timestamp_ms))
        self.tell(*folded.outputs)
        for key, row in folded.rows.items():
            self.append((changelog(topic), partition), key, row, batch[-1].timestamp_ms)
            if row is None:
                self.rows[at].pop(key, None)
            else:
                self.rows[at][key] = row
        self.folded[at] += len(batch)
        return True


class Reader:
    """`backstop.audit.verify.Topics` over a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._next: dict[Partition, int] = {}

    def partitions(self, topic: str) -> list[Partition]:
        return self._world.partitions(topic)

    def has(self, topic: str) -> bool:
        return True

    def position(self, partition: Partition) -> int:
        return self._next.get(partition, 0)

    async def begins(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        return {partition: self._world.begin.get(partition, 0) for partition in partitions}

    async def ends(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        return {partition: len(self._world.records[partition]) for partition in partitions}

    async def peek(self, partition: Partition) -> Record | None:
        kept = self._world.records[partition][self._world.begin.get(partition, 0) :]
        return kept[0] if kept else None

    async def read(self, ends: Mapping[Partition, int]) -> AsyncIterator[list[Record]]:
        for partition, end in ends.items():
            start = max(self.position(partition), self._world.begin.get(partition, 0))
            self._next[partition] = end
            for at in range(start, end, 3):
                batch = self._world.records[partition][at : min(at + 3, end)]
                kept = [record for record in batch if (*partition, record.offset) not in self._world.gaps]
                if kept:
                    yield kept


def result_of(record: Record) -> JobResult:
    return RESULT.validate_json(record.value or b"")
