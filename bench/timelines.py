"""Measures `backstop audit timeline` of one job in a long log, with the read model's places and without.

    python -m bench.timelines [--events 10000000] [--hours 6] [--repeats 5] [--whole]

Fills the topics on a broker of its own with records of other jobs, spread over so many hours: the given number on
`jobs` and `responses` together, and for each nine of them a result and three commands, as a job has. The records of one
whole job lie between them, from a quarter to three quarters of the time. The read model, which knows its places, is
written as the projection would. Prints one JSON object: seconds from the start of the process to its end. Exit 1: the
goal is missed.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from backstop.dev.broker import owned
from backstop.readmodel import store
from backstop.readmodel.batch import ParsedRecord
from backstop.readmodel.database import Connection
from backstop.readmodel.opening import database_at
from backstop.readmodel.rows import Position
from backstop.runtime.kafka.publisher import partition_of
from backstop.runtime.kafka.topics import create_topics
from backstop.runtime.process.clock import make_clock
from backstop.runtime.settings import RuntimeSettings
from bench.sizes import records_of
from schemas.base import Message
from schemas.codec import encode

GOAL_S = 2.0
PARTITIONS = 8
SHARES = {"jobs": 5 / 9, "responses": 4 / 9, "results": 1 / 9, "submissions": 1 / 9, "polls": 2 / 9}
"""Records of a topic, for each fact on `jobs` or `responses`."""
READ = ("jobs", "responses", "results")
VALUE = b"x" * 300
BATCH_BYTES = 900_000
HOUR_MS = 3_600_000


class Log:
    """One partition, as it is written."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, partition: int) -> None:
        self._producer, self._topic, self._partition = producer, topic, partition
        self._batch = producer.create_batch()
        self.next_offset = 0

    async def put(self, key: bytes, value: bytes, at_ms: int) -> int:
        if self._batch.append(key=key, value=value, timestamp=at_ms) is None:
            await self.flush()
            self._batch.append(key=key, value=value, timestamp=at_ms)
        self.next_offset += 1
        return self.next_offset - 1

    async def flush(self) -> None:
        self._batch.close()
        if self._batch.record_count():
            await (await self._producer.send_batch(self._batch, self._topic, partition=self._partition))
        self._batch = self._producer.create_batch()


async def fill(settings: RuntimeSettings, records: list[Message], events: int, hours: float) -> dict[str, Any]:
    """Where the job's records stand, by topic and partition, with the end of each partition."""
    begins_ms, long_ms = int(time.time() * 1000 - hours * HOUR_MS), int(hours * HOUR_MS)
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers, max_batch_size=BATCH_BYTES, max_request_size=4 * BATCH_BYTES
    )
    await producer.start()
    of_job: dict[tuple[str, int], list[tuple[float, Message]]] = defaultdict(list)
    for number, message in enumerate(records):
        partition = partition_of(message.key.encode(), range(PARTITIONS), range(PARTITIONS))
        of_job[message.topic, partition].append((0.25 + 0.5 * number / len(records), message))
    placed: list[tuple[Position, Message]] = []
    ends: dict[tuple[str, int], int] = {}
    for topic, share in SHARES.items():
        count = round(events * share / PARTITIONS)
        for partition in range(PARTITIONS):
            log, waiting = Log(producer, f"{settings.topic_prefix}{topic}", partition), of_job[topic, partition]
            for number in range(count):
                at_ms = begins_ms + long_ms * number // count
                while waiting and number / count >= waiting[0][0]:
                    message = waiting.pop(0)[1]
                    offset = await log.put(message.key.encode(), encode(message), at_ms)
                    placed.append((Position(topic, partition, offset), message))
                await log.put(b"job-of-others-%d" % (number % 1_000), VALUE, at_ms)
            await log.flush()
            ends[topic, partition] = log.next_offset
    await producer.stop()
    return {"placed": placed, "ends": ends}


async def write_read_model(folder: Path, filled: Mapping[str, Any]) -> None:
    database = database_at(f"sqlite:///{folder / 'readmodel.db'}", make_clock())
    parsed = [
        ParsedRecord(at, message, encode(message))
        for at, message in filled["placed"]
        if at.topic in READ
    ]  # fmt: skip

    def write(conn: Connection) -> None:
        store.apply(conn, [], parsed, make_clock()(), 1)
        for (topic, part), end in filled["ends"].items():
            if topic in READ:
                conn.execute("INSERT INTO consumer_offsets VALUES (?, ?, ?, 1)", (topic, part, end))

    await database.open()
    await database.write(write)
    await database.close()


def took(job_id: str, environment: Mapping[str, str], records: int, *options: str) -> float:
    began_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "backstop.cli", "audit", "timeline", job_id, "-o", "json", *options],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    took_s = time.monotonic() - began_s
    assert (len(json.loads(done.stdout)), done.stderr) == (records, ""), done.stderr
    return round(took_s, 2)


async def main(events: int, hours: float, repeats: int, *, whole: bool) -> int:
    records = records_of(7, 2_000, 2_000)
    with owned(os.environ) as broker, tempfile.TemporaryDirectory(prefix="backstop-bench-") as folder:
        prefix = f"timelines{os.getpid()}."
        environment = {
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap, "BACKSTOP_TOPIC_PREFIX": prefix,
            "BACKSTOP_PARTITIONS": str(PARTITIONS), "BACKSTOP_DATA_DIR": folder,
        }  # fmt: skip
        settings = RuntimeSettings(
            kafka_bootstrap_servers=broker.bootstrap, topic_prefix=prefix, partitions=PARTITIONS, data_dir=Path(folder)
        )
        await create_topics(settings)
        filled = await fill(settings, records, events, hours)
        await write_read_model(Path(folder), filled)
        job_id = records[0].key
        by_places = [took(job_id, environment, len(records)) for _ in range(repeats)]
        found: dict[str, Any] = {
            "what": "audit timeline", "events": events, "records": sum(filled["ends"].values()), "hours": hours,
            "by_places_s": by_places, "median_s": statistics.median(by_places), "goal_s": GOAL_S,
        }  # fmt: skip
        if whole:
            found["whole_partitions_s"] = took(job_id, environment, len(records), "--whole")
    print(json.dumps(found, indent=1))
    return 0 if found["median_s"] <= GOAL_S else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.timelines", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--whole", action="store_true", help="measure a run over whole partitions as well")
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.events, given.hours, given.repeats, whole=given.whole)))
