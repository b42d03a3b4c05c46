"""Measures the time of a record from its acknowledgement to the handler (one hop), and the handler's throughput.

    python bench/faust_hop.py [--rate 50] [--seconds 10] [--records 200000]

Broker as in the demo (`KAFKA_BOOTSTRAP_SERVERS`, else one is started). One process: producer, Faust app and handler
share a core, so the figures are on the high side.
"""

import argparse
import asyncio
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from backstop.dev.broker import owned
from streams.faust.app import FoldApp, make_app, run_app
from streams.faust.partitions import each_partition
from streams.tables.fold_table import FoldTable

PARTITIONS = 8
VALUE = b"x" * 250


class Bench:
    """An app whose handler records when it received each record, and with `write` also writes a row of 2 KiB
    per key.
    """

    def __init__(self, bootstrap: str, folder: Path, name: str, *, write: bool) -> None:
        self.bootstrap, self.topic, self.write = bootstrap, f"{name}.records", write
        self.seen_ns: dict[bytes, int] = {}
        self.done_ns: dict[bytes, int] = {}
        self.count = 0
        self.batches = 0
        self.app: FoldApp = make_app(name, bootstrap, folder, now_s=time.time)
        self.table = FoldTable(self.app, "rows", PARTITIONS)
        self.app.agent(self.app.topic(self.topic))(self.fold)

    async def fold(self, stream: Any) -> None:
        await each_partition(stream, self.handle)

    async def handle(self, event: Any) -> None:
        now_ns = time.monotonic_ns()
        for record in event.value:
            self.seen_ns[record.key] = now_ns
        if self.write:
            rows = {b"k%d" % (hash(record.key) % 1_250): VALUE * 8 for record in event.value}
            await self.table.write(event.message.partition, rows)
        now_ns = time.monotonic_ns()
        for record in event.value:
            self.done_ns[record.key] = now_ns
        self.count += len(event.value)
        self.batches += 1

    async def create_topic(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(self.topic, PARTITIONS, 1)])
        await admin.close()


async def hop(bench: Bench, rate: float, seconds: float) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bench.bootstrap, enable_idempotence=True, linger_ms=0)
    await producer.start()
    acked_ns: dict[bytes, int] = {}
    sends: list[asyncio.Task[None]] = []

    async def send(key: bytes) -> None:
        await producer.send_and_wait(bench.topic, VALUE, key)
        acked_ns[key] = time.monotonic_ns()

    loop = asyncio.get_running_loop()
    begin_s = loop.time() + 1.0
    for number in range(int(rate * seconds)):
        await asyncio.sleep(begin_s + number / rate - loop.time())
        sends.append(asyncio.create_task(send(b"%d" % number)))
    await asyncio.gather(*sends)
    while len(bench.done_ns) < len(acked_ns):
        await asyncio.sleep(0.01)
    await producer.stop()
    for what, ends_ns in (("ack to handler", bench.seen_ns), ("ack to handled", bench.done_ns)):
        took_ms = sorted((ends_ns[key] - acked) / 1e6 for key, acked in acked_ns.items())
        cuts = statistics.quantiles(took_ms, n=100)
        print(
            f"  {what} at {rate:g}/s: p50 {cuts[49]:.1f} ms, p90 {cuts[89]:.1f}, "
            f"p99 {cuts[98]:.1f}, max {took_ms[-1]:.1f}"
        )


async def throughput(bench: Bench, records: int) -> None:
    """A backlog is written while the consumer is stopped, then handled."""
    producer = AIOKafkaProducer(bootstrap_servers=bench.bootstrap, linger_ms=5, max_batch_size=200_000)
    await producer.start()
    bench.app.consumer.stop_flow()
    bench.count = bench.batches = 0
    futures = [await producer.send(bench.topic, VALUE, b"t%d" % number) for number in range(records)]
    await futures[-1]
    await producer.stop()
    began, cpu = time.monotonic(), time.process_time()
    bench.app.consumer.resume_flow()
    while bench.count < records:
        await asyncio.sleep(0.01)
    took_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
    print(
        f"  {records / took_s:,.0f} records/s, {cpu_s / records * 1e6:.1f} µs CPU each, "
        f"{records / bench.batches:.0f} a batch"
    )


async def main(rate: float, seconds: float, records: int) -> None:
    with owned(os.environ) as broker, tempfile.TemporaryDirectory() as folder:
        for write in (False, True):
            name = f"bench{os.getpid()}{'w' if write else 'r'}"
            bench = Bench(broker.bootstrap, Path(folder) / name, name, write=write)
            await bench.create_topic()
            stop = asyncio.Event()
            running = asyncio.create_task(run_app(bench.app, stop))
            while not bench.table.partitions():
                await asyncio.sleep(0.05)
            print("with a row of 2 KiB written for each record:" if write else "handler only:")
            await hop(bench, rate, seconds)
            await throughput(bench, records // 10 if write else records)
            print(f"  resident at most: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
            stop.set()
            await running


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--records", type=int, default=200_000)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(options.rate, options.seconds, options.records))
