"""Measures how fast the read model takes in records, and how soon a result can be read.

    python -m bench.readmodel_sink sink --jobs 5000 [--batch 500] [--postgres | --url postgresql://…]
    python -m bench.readmodel_sink delay --jobs 2000 --rate 200

`sink` needs no broker: parsing, folding and transactions of whole jobs (8 records each), as in the projector. `delay`
starts a broker unless one is given, and a projection as its own process. It measures from the acknowledgement of a
result's record to the row that a reader sees.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from aiokafka import AIOKafkaProducer

from backstop.dev.broker import owned
from backstop.readmodel import store
from backstop.readmodel.batch import Fact
from backstop.readmodel.database import Database
from backstop.readmodel.opening import database_at
from backstop.readmodel.parse import parse
from backstop.readmodel.settings import ProjectionSettings
from backstop.readmodel.store import Move
from backstop.runtime.kafka.topics import create_topics
from backstop.runtime.process.clock import make_clock
from backstop.runtime.records import Record as RawRecord
from schemas.base import Message
from schemas.codec import encode
from tests.unit.backstop.readmodel.logs import whole_job
from tests.unit.backstop.readmodel.postgres_server import postgres

PARTITIONS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sink", "delay"))
    parser.add_argument("--jobs", type=int, default=5_000)
    parser.add_argument("--batch", type=int, default=500, help="sink: records of a transaction")
    parser.add_argument("--rate", type=float, default=200.0, help="delay: jobs a second")
    parser.add_argument("--url", help="the database; a new SQLite file if not given")
    parser.add_argument(
        "--postgres", action="store_true", help="sink: a PostgreSQL server made for it (Debian's package)"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="backstop-bench-") as folder, ExitStack() as stack:
        url = given.url or f"sqlite:///{folder}/readmodel.db"
        if given.postgres:
            server = stack.enter_context(postgres())
            if server is None:
                sys.exit("PostgreSQL is not installed: apt-get install postgresql")
            url = server.url
        if given.what == "sink":
            asyncio.run(sink(url, given.jobs, given.batch))
        else:
            with owned(os.environ) as broker:
                asyncio.run(delay(broker.bootstrap, url, Path(folder), given.jobs, given.rate))


async def sink(url: str, jobs: int, batch: int) -> None:
    load = os.getloadavg()[0]
    raws = [(fact.topic, raw(fact, offset)) for offset, fact in enumerate(interleaved(jobs))]
    database = database_at(url, make_clock())
    await database.open()
    at = await database.write(
        lambda conn: store.claim(conn, [(topic, 0) for topic in ("jobs", "responses", "results")])
    )
    began_s, began_cpu_s, slowest_s, rows = time.monotonic(), time.process_time(), 0.0, 0
    for start in range(0, len(raws), batch):
        part = raws[start : start + batch]
        batch_s = time.monotonic()
        records = [record for topic, each in part if (record := parse((topic, 0), each)) is not None]
        ends = {(topic, 0): each.offset + 1 for topic, each in part}
        moves = [Move(*place, at[place].next_offset, end, at[place].epoch) for place, end in ends.items()]
        applied = partial(store.apply, moves=moves, records=records, now_ms=0, build=database.build)
        writes = await database.write(applied)
        for place, end in ends.items():
            at[place] = store.OwnedPartition(end, at[place].epoch)
        rows += len(writes.rows)
        slowest_s = max(slowest_s, time.monotonic() - batch_s)
    took_s, cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
    await database.close()
    print(f"load average before and after: {load:.1f}, {os.getloadavg()[0]:.1f}")
    print(
        f"{len(raws)} records of {jobs} jobs in {took_s:.2f} s: {len(raws) / took_s:,.0f} records/s, "
        f"{rows / took_s:,.0f} rows/s; slowest transaction of {batch}: {slowest_s * 1000:.0f} ms; "
        f"{len(raws) / cpu_s:,.0f} records and {rows / cpu_s:,.0f} rows a second of CPU"
    )


def interleaved(jobs: int, wave: int = 200) -> list[Fact]:
    """Jobs in waves, fact by fact, as a log has them: neighbours are of different jobs."""
    facts: list[Fact] = []
    for first in range(0, jobs, wave):
        of_wave = [whole_job(f"job-{n:08}", f"resp_{n:08}") for n in range(first, min(first + wave, jobs))]
        facts += [fact for step in zip(*of_wave, strict=True) for fact in step]
    return facts


def raw(fact: Fact, offset: int) -> RawRecord:
    return RawRecord(fact.topic, 0, offset, fact.at_ms, fact.key.encode(), encode(fact), ())


async def delay(bootstrap: str, url: str, folder: Path, jobs: int, rate: float) -> None:
    settings = ProjectionSettings(
        kafka_bootstrap_servers=bootstrap, topic_prefix=f"bench{os.getpid()}.", partitions=PARTITIONS, data_dir=folder
    )
    await create_topics(settings)
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "BACKSTOP_TOPIC_PREFIX": settings.topic_prefix,
        "BACKSTOP_DATA_DIR": str(folder),
        "BACKSTOP_DATABASE_URL": url,
        "BACKSTOP_LOG_LEVEL": "error",
    }
    projection = subprocess.Popen([sys.executable, "-P", "-m", "backstop.cli", "projection"], env=environment)
    database = database_at(url, make_clock())
    try:
        await database.open()
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
        await producer.start()
        # The first one waits for the group to form; the clock starts after it.
        warm = whole_job("warm", "resp_warm")
        await asyncio.gather(*[await send(producer, settings, fact) for fact in warm])
        while not await finished(database, 0):
            await asyncio.sleep(0.05)
        acked: dict[str, float] = {}
        watching = asyncio.create_task(watch(database, jobs + 1))
        began_s = time.monotonic()
        for n in range(jobs):
            await asyncio.sleep(max(0.0, began_s + n / rate - time.monotonic()))
            await one_job(producer, settings, n, acked)
        seen = await asyncio.wait_for(watching, 120)
        await producer.stop()
    finally:
        projection.terminate()
        projection.wait(20)
        await database.close()
    # The acknowledgement may arrive after the row was seen: then the delay is 0.
    delays_ms = sorted(max(0.0, seen[job_id] - at_s) * 1000 for job_id, at_s in acked.items())
    print(
        f"{jobs} jobs at {rate:g}/s: result acknowledged to row readable, ms: p50 {at(delays_ms, 0.5):.0f}, "
        f"p95 {at(delays_ms, 0.95):.0f}, p99 {at(delays_ms, 0.99):.0f}, max {delays_ms[-1]:.0f}"
    )


async def one_job(producer: AIOKafkaProducer, settings: ProjectionSettings, n: int, acked: dict[str, float]) -> None:
    job_id = f"job-{n:08}"
    for fact in whole_job(job_id, f"resp_{n:08}"):
        sent = await send(producer, settings, fact)
        if fact.topic == "results":
            sent.add_done_callback(lambda _done: acked.__setitem__(job_id, time.monotonic()))


async def send(producer: AIOKafkaProducer, settings: ProjectionSettings, fact: Message) -> "asyncio.Future[object]":
    sent: asyncio.Future[object] = await producer.send(
        f"{settings.topic_prefix}{fact.topic}", encode(fact), key=fact.key.encode()
    )
    return sent


async def watch(database: Database, jobs: int) -> dict[str, float]:
    """When each job was first seen as finished, by a query every few milliseconds."""
    seen: dict[str, float] = {}
    after = 0
    while len(seen) < jobs:
        rows = await finished(database, after)
        now_s = time.monotonic()
        for seq, job_id in rows:
            seen[job_id], after = now_s, seq
        await asyncio.sleep(0.005)
    return seen


async def finished(database: Database, after: int) -> list[tuple[int, str]]:
    return await database.read(
        lambda conn: conn.rows(
            "SELECT seq, job_id FROM changes WHERE seq > ? AND status = 'completed' ORDER BY seq", (after,)
        )
    )


def at(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


if __name__ == "__main__":
    main()
