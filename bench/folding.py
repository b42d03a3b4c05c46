"""The fold's speed: pure, as `audit verify` refolds, and in a worker's app with table, changelog and outputs.

The records are those of whole jobs (`bench.sizes`), made by the product's own folds. Figures a core are by processor
time of this process.
"""

import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from backstop.audit.refold import PartitionRefold
from backstop.dev.broker import owned
from backstop.runtime.kafka.publisher import KafkaPublisher
from backstop.runtime.kafka.topics import create_topics
from backstop.runtime.process.clock import make_clock
from backstop.runtime.records import Record
from backstop.runtime.settings import RuntimeSettings
from bench.sizes import T0, records_of
from schemas.base import Message
from schemas.codec import encode
from streams.agents.agents import add_fold_agent
from streams.agents.fold_shell import FoldShell
from streams.faust.app import make_app, run_app
from streams.fold import job, response
from streams.fold.batch import JOB_FOLD, RESPONSE_FOLD
from streams.scheduler.due import DueIndex
from streams.tables.fold_table import FoldTable

JOBS, PROMPT_BYTES, ANSWER_BYTES, BATCH = 5_000, 200, 500, 500
PARTITIONS, LIVE_JOBS = 8, 20_000


def logs(jobs: int) -> dict[str, list[Message]]:
    """The facts of both logs, jobs side by side as they are in a busy partition."""
    whole = [records_of(number, PROMPT_BYTES, ANSWER_BYTES) for number in range(jobs)]
    found: dict[str, list[Message]] = {"jobs": [], "responses": []}
    for each in zip(*whole, strict=True):
        for fact in each:
            if fact.topic in found:
                found[fact.topic].append(fact)
    return found


def pure(jobs: int = JOBS) -> dict[str, Any]:
    """`step` alone, and what `audit verify` does with each record: parse, fold, rows in memory."""
    facts = logs(jobs)
    step_s, states = 0.0, Counter[str]()
    for topic, absent, step in (
        ("jobs", job.Absent(), job.step), ("responses", response.AbsentResponse(), response.step),
    ):  # fmt: skip
        rows: dict[str, Any] = {}
        began_s = time.process_time()
        for fact in facts[topic]:
            rows[fact.key] = step(rows.get(fact.key, absent), fact).state  # type: ignore[arg-type]  # by its topic
        step_s += time.process_time() - began_s
        states.update(type(state).__name__ for state in rows.values())
    count = sum(map(len, facts.values()))
    found: dict[str, Any] = {"step_events_per_s": round(count / step_s), "events": count}
    verify_s = 0.0
    for fold in (JOB_FOLD, RESPONSE_FOLD):
        records = [
            Record(fold.topic, 0, offset, T0, fact.key.encode(), encode(fact), ())
            for offset, fact in enumerate(facts[fold.topic])
        ]
        refold = PartitionRefold(fold, 0)
        began_s = time.process_time()
        for first in range(0, len(records), BATCH):
            refold.take(records[first : first + BATCH])
        took_s = time.process_time() - began_s
        verify_s += took_s
        found[f"verify_{fold.topic}_events_per_s"] = round(len(records) / took_s)
    return {**found, "verify_events_per_s": round(count / verify_s)}


class NoPublisher:
    """Takes what is published at once: only what comes before and after is measured."""

    async def publish(self, _messages: Sequence[Message], _timeout_s: float | None = None) -> None:
        """Nothing is sent."""


class _NoJobResults:
    async def publish(self, _partition: int, _results: Sequence[Any]) -> None:
        raise AssertionError("no job of this bench ends")


async def live(jobs: int = LIVE_JOBS) -> dict[str, Any]:
    """A backlog of submissions through a Faust app: each is one event, one row, and one command as output."""
    found: dict[str, Any] = {}
    with owned(os.environ) as broker, tempfile.TemporaryDirectory(prefix="backstop-bench-") as folder:
        for name in ("table", "outputs"):
            settings = RuntimeSettings(
                kafka_bootstrap_servers=broker.bootstrap, topic_prefix=f"bench{name}.", partitions=PARTITIONS,
                data_dir=Path(folder),
            )  # fmt: skip
            await create_topics(settings)
            await _backlog(settings, jobs)
            found[name] = await _folded(settings, Path(folder) / name, jobs, acknowledged=name == "outputs")
    return found


async def _backlog(settings: RuntimeSettings, jobs: int) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers, linger_ms=5, max_batch_size=200_000, acks="all"
    )
    await producer.start()
    topic = f"{settings.topic_prefix}jobs"
    sent = []
    for number in range(jobs):
        fact = records_of(number, PROMPT_BYTES, ANSWER_BYTES)[0]
        sent.append(await producer.send(topic, encode(fact), key=fact.key.encode()))
    await asyncio.gather(*sent)
    await producer.stop()


async def _folded(settings: RuntimeSettings, folder: Path, jobs: int, *, acknowledged: bool) -> dict[str, Any]:
    clock, taken, stop = make_clock(), 0, asyncio.Event()
    began_s = cpu_s = 0.0
    app = make_app(
        f"{settings.topic_prefix}worker", settings.kafka_bootstrap_servers, folder, now_s=lambda: clock() / 1_000
    )
    table = FoldTable(app, "jobs", settings.partitions)
    publisher = KafkaPublisher(settings, "bench") if acknowledged else None
    if publisher is not None:
        await publisher.start()

    def took(_partition: int, folded: Any) -> None:
        nonlocal taken, began_s, cpu_s
        if not taken:
            began_s, cpu_s = time.monotonic(), time.process_time()
        taken += folded.taken

    shell = FoldShell(
        JOB_FOLD, rows=table, publisher=publisher or NoPublisher(), results=_NoJobResults(),
        index=DueIndex(clock), now_ms=clock, taken=took,
    )  # fmt: skip
    add_fold_agent(app, f"{settings.topic_prefix}jobs", "job_fold", shell)
    running = asyncio.create_task(run_app(app, stop))
    writing = asyncio.create_task(table.write_gathered())
    async with asyncio.timeout(120):
        while taken < jobs:
            await asyncio.sleep(0.01)
    await table.flush()
    took_s, used_s = time.monotonic() - began_s, time.process_time() - cpu_s
    stop.set()
    await running
    writing.cancel()
    if publisher is not None:
        await publisher.stop()
    return {"events_per_s": round(jobs / took_s), "events_per_s_of_a_core": round(jobs / used_s)}


async def folding() -> dict[str, Any]:
    return {**await asyncio.to_thread(pure), **await live()}
