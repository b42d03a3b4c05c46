"""A worker process of the tests: folds integers per key, guarded by offset, on the hardened Faust substrate.

`python -m tests.kafka.faust.worker '<json of WorkerConfig>'`. In its data folder it appends a line to
`batches` for each batch that it has handled, to `recovered` after each recovery, to `damages` for each store that it
set aside.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop

from streams.faust.app import FoldApp, end_process, make_app, run_app
from streams.faust.partitions import each_partition
from streams.tables.fold_table import FoldTable
from streams.watchdog import BrokerEnds, Watchdog


@dataclass(frozen=True)
class WorkerConfig:
    bootstrap: str
    app_id: str
    topic: str
    data_dir: str
    partitions: int = 4
    batch_records_max: int = 500
    record_delay_ms: float = 0.0
    instance_id: str | None = None
    session_timeout_s: float = 6.0
    drain_timeout_s: float = 20.0
    plain_loop: bool = False
    """`async for event in stream.events()`, all partitions one after the other, instead of `each_partition`."""
    fail_at: int | None = None
    """Raise in the handler of the record with this value."""
    hang_at: int | None = None
    block_at: int | None = None
    """As `hang_at`, but the event loop hangs too."""
    watchdog_limit_s: float = 0.0
    watch_every_s: float = 0.0
    huge_at: int | None = None
    """Write a row larger than the changelog takes."""

    def dumps(self) -> str:
        return json.dumps(asdict(self))


def fold_row(row: bytes | None, offset: int, value: int) -> bytes | None:
    """count, sum, last offset; None for a record that the row has already taken."""
    count, total, last = json.loads(row) if row else (0, 0, -1)
    return json.dumps([count + 1, total + value, offset]).encode() if offset > last else None


def app_of(config: WorkerConfig, **settings: Any) -> FoldApp:
    return make_app(
        config.app_id,
        config.bootstrap,
        Path(config.data_dir),
        now_s=time.time,
        instance_id=config.instance_id,
        session_timeout_s=config.session_timeout_s,
        heartbeat_interval_s=0.5,
        rebalance_timeout_s=30.0,
        drain_timeout_s=config.drain_timeout_s,
        batch_records_max=config.batch_records_max,
        **settings,
    )


def declare(app: FoldApp, config: WorkerConfig) -> FoldTable:
    """The table and the agent that folds the topic into it."""

    def journal(name: str) -> Callable[..., None]:
        def write(*words: object) -> None:
            with (Path(config.data_dir) / name).open("a") as file:
                print(*words, file=file)

        return write

    handled, recovered, damaged = journal("batches"), journal("recovered"), journal("damages")
    table = FoldTable(
        app, "sums", config.partitions, on_damage=damaged, row_version=lambda row: int(json.loads(row)[2])
    )
    app.fold_tables[config.topic] = table
    table.on_recovered(lambda partitions: recovered(sorted(partitions)))

    async def handle(event: Any) -> None:
        partition = event.message.partition
        rows: dict[bytes, bytes | None] = {}
        for record in event.value:
            value = int(record.value)
            if value == config.fail_at:
                raise ValueError(f"the test's failure at {value}")
            if value == config.hang_at:
                await asyncio.sleep(3600)
            if value == config.block_at:
                threading.Event().wait()
            folded = fold_row(rows.get(record.key) or table.get(partition, record.key), record.offset, value)
            if folded is not None:
                rows[record.key] = folded + b" " * 3_000_000 if value == config.huge_at else folded
        await asyncio.sleep(len(event.value) * config.record_delay_ms / 1000)
        await table.write(partition, rows)
        handled(partition, event.value[0].offset, event.value[-1].offset, len(event.value))

    @app.agent(app.topic(config.topic))
    async def fold(stream: Any) -> None:
        if config.plain_loop:
            async for event in stream.events():
                await handle(event)
        else:
            await each_partition(stream, handle)

    journal("declared")("yes")
    return table


async def main(config: WorkerConfig) -> None:
    app = app_of(config)
    table = declare(app, config)
    stop = asyncio.Event()

    async def watch() -> None:
        while config.watch_every_s and not stop.is_set():
            await asyncio.sleep(config.watch_every_s)
            await table.watch_changelog()

    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    watching = asyncio.create_task(watch())
    if config.watchdog_limit_s:
        Watchdog(
            app.handled,
            lambda: BrokerEnds({"bootstrap_servers": config.bootstrap}, 2.0),
            limit_s=config.watchdog_limit_s,
            on_stall=end_process,
        ).start()
    await run_app(app, stop)
    watching.cancel()


def run(main: Callable[[WorkerConfig], Coroutine[Any, Any, None]]) -> None:
    logging.basicConfig(level=os.environ.get("BACKSTOP_TEST_LOG", "WARNING"), format="%(asctime)s %(name)s %(message)s")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(WorkerConfig(**json.loads(sys.argv[1]))))


if __name__ == "__main__":
    run(main)
