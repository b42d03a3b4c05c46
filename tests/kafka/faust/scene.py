"""The words of the tests in this folder: a topic of integers, worker processes, and what must be true in the end."""

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from streams.tables.partition_db import OFFSET_KEY, PartitionDb, StoreLimits, new_cache
from tests.kafka.faust.worker import WorkerConfig, fold_row
from tests.support.reading import records_on
from tests.support.waiting import wait_until

T = TypeVar("T")
KEYS = 97
START_TIMEOUT_S = 20.0


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


class Worker:
    """A worker process and its data folder; `restart` keeps the folder."""

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self.folder = Path(config.data_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **changes: Any) -> "Worker":
        config = replace(self.config, **changes)
        with (self.folder / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.kafka.faust.worker", config.dumps()], stderr=stderr
            )
        return self

    def recoveries(self) -> int:
        return len(self._lines("recovered"))

    def wait_recovered(self, more_than: int) -> None:
        wait_until(lambda: self.recoveries() > more_than, START_TIMEOUT_S, f"a recovery of {self.folder.name}")

    def handled(self) -> int:
        """Records in batches that were handled to the end, repeats included."""
        return sum(int(line.split()[3]) for line in self._lines("batches"))

    def batches(self) -> list[tuple[int, int, int, int]]:
        """partition, first and last offset, size."""
        return [tuple(int(word) for word in line.split()) for line in self._lines("batches")]  # type: ignore[misc]

    def damages(self) -> list[str]:
        return self._lines("damages")

    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def failed(self) -> bool:
        return self.process is not None and (self.process.poll() or 0) > 0

    def terminate(self) -> int:
        return self._end(lambda process: process.terminate())

    def kill(self) -> int:
        return self._end(lambda process: process.kill())

    def wait(self, timeout_s: float = START_TIMEOUT_S) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def _end(self, how: Any) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            how(self.process)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.folder.name} did not end\n{self.stderr()}") from None

    def _lines(self, name: str) -> list[str]:
        path = self.folder / name
        # A line that is still being written is not there yet.
        return path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []

    def stores(self) -> dict[int, Path]:
        found = sorted(self.folder.glob("v1/tables/sums-*.db"))
        return {int(path.stem.removeprefix("sums-")): path for path in found}

    def table(self) -> dict[bytes, bytes]:
        """All rows of the local stores; of a worker that has ended."""
        rows: dict[bytes, bytes] = {}
        limits = StoreLimits()
        for path in self.stores().values():
            db = PartitionDb(path, new_cache(limits), limits)
            rows.update(db.items())
            db.close()
        assert OFFSET_KEY not in rows
        return rows


@dataclass
class Scene:
    bootstrap: str
    prefix: str
    folder: Path
    partitions: int = 4
    workers: list[Worker] = field(default_factory=list)
    _values: Any = field(default_factory=itertools.count)

    @property
    def topic(self) -> str:
        return f"{self.prefix}numbers"

    @property
    def app_id(self) -> str:
        return f"{self.prefix}fold"

    @property
    def changelog(self) -> str:
        return f"{self.app_id}-sums-changelog"

    async def create_topic(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(self.topic, self.partitions, 1)])
        finally:
            await admin.close()

    async def produce(self, count: int) -> None:
        """The next `count` integers, key `k<n mod 97>`."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, linger_ms=5)
        await producer.start()
        try:
            values = itertools.islice(self._values, count)
            sends = [await producer.send(self.topic, b"%d" % n, key_of(n)) for n in values]
            for send in sends:
                await send
        finally:
            await producer.stop()

    def worker(self, name: str = "w1", **settings: Any) -> Worker:
        config = WorkerConfig(
            self.bootstrap, self.app_id, self.topic, str(self.folder / name), partitions=self.partitions, **settings
        )
        worker = Worker(config)
        self.workers.append(worker)
        return worker

    def end(self) -> None:
        for worker in self.workers:
            if worker.process is not None:
                worker.kill()

    def committed(self) -> dict[int, int]:
        return run(self._committed())

    async def _committed(self) -> dict[int, int]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            offsets = await admin.list_consumer_group_offsets(self.app_id)
        finally:
            await admin.close()
        return {tp.partition: at.offset for tp, at in offsets.items() if tp.topic == self.topic and at.offset >= 0}

    async def ends(self, topic: str | None = None) -> dict[int, int]:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap)
        await consumer.start()
        try:
            tps = [TopicPartition(topic or self.topic, p) for p in range(self.partitions)]
            return {tp.partition: end for tp, end in (await consumer.end_offsets(tps)).items()}
        finally:
            await consumer.stop()

    async def read(self, topic: str) -> list[Any]:
        """All committed records, in order per partition."""
        return await records_on(self.bootstrap, topic, isolation="read_committed")

    def wait_committed(self, timeout_s: float = 60.0) -> None:
        """Until everything in the topic is committed."""
        ends = {partition: end for partition, end in run(self.ends()).items() if end}

        def committed() -> bool:
            return self.committed() == ends or any(worker.failed() for worker in self.workers)

        wait_until(committed, timeout_s, f"the commit of {ends}", poll_s=0.2)
        for worker in self.workers:
            assert not worker.failed(), worker.stderr()

    def check(self, *workers: Worker) -> None:
        """All is committed; changelog and local stores of `workers` (all ended) equal the refold of the topic."""
        committed, ends = self.committed(), run(self.ends())
        assert committed == {partition: end for partition, end in ends.items() if end}
        expected = refold(run(self.read(self.topic)))
        latest = {record.key: record.value for record in run(self.read(self.changelog))}
        assert lost(expected, latest) == {}
        assert latest == expected
        for worker in workers:
            assert worker.table() == expected


def key_of(value: int) -> bytes:
    return b"k%d" % (value % KEYS)


def refold(records: Iterable[Any]) -> dict[bytes, bytes]:
    rows: dict[bytes, bytes] = {}
    for record in records:
        row = fold_row(rows.get(record.key), record.offset, int(record.value))
        if row is not None:
            rows[record.key] = row
    return rows


def lost(expected: dict[bytes, bytes], found: dict[bytes, bytes]) -> dict[bytes, int]:
    """How many records each row misses: the first thing that one wants to know."""
    misses = {key: json.loads(row)[0] - json.loads(found.get(key, b"[0]"))[0] for key, row in expected.items()}
    return {key: miss for key, miss in misses.items() if miss}
