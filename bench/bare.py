"""The limits of a run: what the parts below Backstop do alone, on the same machine and minutes apart at most.

A record through Kafka (produce with acks=all, consume), an aiohttp handler, a consumer's read, RocksDB's writes.
"""

import asyncio
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from backstop.dev.broker import owned
from bench.system import spread
from streams.tables.partition_db import PartitionDb, StoreLimits, new_cache

TOPIC, PARTITION = "bare", TopicPartition("bare", 0)
HOPS_WARM, HOPS, HOP_EVERY_S = 500, 500, 0.02
RECORDS, RECORD = 100_000, b"x" * 500
REQUESTS, CONNECTIONS = 10_000, 16
ROWS, ROWS_A_BATCH = 200_000, 500


async def bare() -> dict[str, Any]:
    with owned(os.environ) as broker, tempfile.TemporaryDirectory(prefix="backstop-bench-") as folder:
        hop = await _hops(broker.bootstrap)
        read = await _reads(broker.bootstrap)
        return {
            "hop_ms": hop, "consumer_records_per_s": read, **await _requests(),
            "rocksdb_rows_per_s": _writes(Path(folder)),
        }  # fmt: skip


async def _hops(bootstrap: str) -> dict[str, float]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(TOPIC, 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=500)
    await producer.start()
    await consumer.start()
    consumer.assign([PARTITION])
    await consumer.seek_to_end(PARTITION)
    took_ms = []
    for number in range(HOPS_WARM + HOPS):
        began_s = time.perf_counter()
        await producer.send_and_wait(TOPIC, RECORD, partition=0)
        await consumer.getone()
        if number >= HOPS_WARM:
            took_ms.append((time.perf_counter() - began_s) * 1_000)
            await asyncio.sleep(HOP_EVERY_S)
    await consumer.stop()
    await producer.stop()
    return spread(took_ms)


async def _reads(bootstrap: str) -> float:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=5, max_batch_size=200_000)
    await producer.start()
    sent = [await producer.send(TOPIC, RECORD, partition=0) for _ in range(RECORDS)]
    await asyncio.gather(*sent)
    await producer.stop()
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([PARTITION])
    await consumer.seek_to_beginning(PARTITION)
    began_s, read = time.perf_counter(), 0
    while read < RECORDS:
        read += sum(map(len, (await consumer.getmany(timeout_ms=1_000)).values()))
    took_s = time.perf_counter() - began_s
    await consumer.stop()
    return round(read / took_s)


def _serve(port: Any) -> None:
    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"status": "queued"}, status=202)

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


async def _requests() -> dict[str, float]:
    """One process answers; the clients parse no more than the length of an answer."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(there,), daemon=True)
    server.start()
    port = await asyncio.to_thread(here.recv)
    body = b'{"job_id":"job-00000000","request":{"model":"gpt-bench","input":"job-00000000"}}'
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    took_ms: list[float] = []

    async def client(requests: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(requests):
            began_s = time.perf_counter()
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            took_ms.append((time.perf_counter() - began_s) * 1_000)
        writer.close()

    await client(500)
    alone = spread(took_ms)
    began_s = time.perf_counter()
    await asyncio.gather(*(client(REQUESTS // CONNECTIONS) for _ in range(CONNECTIONS)))
    rate = REQUESTS / (time.perf_counter() - began_s)
    server.terminate()
    await asyncio.to_thread(server.join)
    return {"aiohttp_p50_ms": alone["p50"], "aiohttp_requests_per_s": round(rate)}


def _writes(folder: Path) -> float:
    limits = StoreLimits()
    db = PartitionDb(folder / "db", new_cache(limits), limits)
    began_s = time.perf_counter()
    for first in range(0, ROWS, ROWS_A_BATCH):
        db.write([(b"job-%012d" % number, RECORD) for number in range(first, first + ROWS_A_BATCH)], first)
    took_s = time.perf_counter() - began_s
    db.close()
    return round(ROWS / took_s)
