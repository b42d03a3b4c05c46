"""A worker process of the tests: folds integers per key, guarded by offset, on the hardened Faust substrate.

`python -m tests.kafka.faust.worker '<json of WorkerConfig>'`. Each batch that was handled is a line in `<data_dir>/batches`.
"""

import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from streams.store.faust_app import make_app, run_app
from streams.store.partitions import each_partition
from streams.store.tables import FoldTable


@dataclass(frozen=True)
class WorkerConfig:
    bootstrap: str
    app_id: str
    topic: str
    data_dir: str
    partitions: int = 4
    record_delay_ms: float = 0.0
    instance_id: str | None = None
    session_timeout_s: float = 6.0
    plain_loop: bool = False
    isolated: bool = False
    fail_at: int | None = None
    """Raise at the record with this value, if it has not been folded."""
    hang_at: int | None = None
    drain_timeout_s: float = 20.0

    def dumps(self) -> str:
        return json.dumps(asdict(self))


def fold_row(row: bytes | None, offset: int, value: int) -> bytes | None:
    """count, sum, last offset; None for a record that the row has already taken."""
    count, total, last = json.loads(row) if row else (0, 0, -1)
    return json.dumps([count + 1, total + value, offset]).encode() if offset > last else None


async def main(config: WorkerConfig) -> None:
    data_dir = Path(config.data_dir)
    app = make_app(
        config.app_id,
        config.bootstrap,
        data_dir,
        now_s=time.time,
        instance_id=config.instance_id,
        session_timeout_s=config.session_timeout_s,
        heartbeat_interval_s=0.5,
        rebalance_timeout_s=30.0,
        drain_timeout_s=config.drain_timeout_s,
    )
    damages = (data_dir / "damages").open("a", buffering=1)
    table = FoldTable(app, "sums", config.partitions, on_damage=lambda *damage: print(*damage, file=damages))
    batches = (data_dir / "batches").open("a", buffering=1)
    ready = (data_dir / "ready").open("a", buffering=1)
    table.on_recovered(lambda partitions: print(sorted(partitions), file=ready))

    async def handle(event: object) -> None:
        partition = event.message.partition
        rows: dict[bytes, bytes | None] = {}
        for record in event.value:
            value = int(record.value)
            folded = fold_row(rows.get(record.key) or table.get(partition, record.key), record.offset, value)
            if folded is None:
                continue
            if value == config.fail_at:
                raise ValueError(f"the test's failure at {value}")
            if value == config.hang_at:
                await asyncio.sleep(3600)
            rows[record.key] = folded
        if config.record_delay_ms:
            await asyncio.sleep(len(event.value) * config.record_delay_ms / 1000)
        await table.write(partition, rows, event.message.offset)
        print(partition, event.value[0].offset, event.value[-1].offset, len(event.value), len(rows), file=batches)

    @app.agent(app.topic(config.topic, value_serializer="raw"), isolated_partitions=config.isolated)
    async def fold(stream):
        if config.plain_loop or config.isolated:
            async for event in stream.events():
                await handle(event)
        else:
            await each_partition(stream, handle)

    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    await run_app(app, stop)


if __name__ == "__main__":
    if os.environ.get("BACKSTOP_TEST_LOG"):
        import logging

        logging.basicConfig(level=os.environ["BACKSTOP_TEST_LOG"])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(WorkerConfig(**json.loads(sys.argv[1]))))
