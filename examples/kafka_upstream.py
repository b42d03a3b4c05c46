"""An upstream service that uses only Kafka: submits jobs and reads their results. Imports nothing of Backstop.

    python examples/kafka_upstream.py --bootstrap localhost:9092 --jobs 5

Needs `pip install aiokafka`. `backstop dev` prints the values for --bootstrap and --prefix.
"""

import argparse
import asyncio
import json
import os
import sys
import uuid
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer


async def main(bootstrap: str, prefix: str, jobs: int, within_s: float) -> int:
    run = uuid.uuid4().hex[:8]
    waiting = {f"example-{run}-{number}" for number in range(jobs)}

    # read_committed: older records of the topic were written in transactions, and only committed ones count.
    # A real consumer has a group_id, and commits after it has processed the result.
    consumer = AIOKafkaConsumer(
        f"{prefix}results",
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        group_id=None,
    )
    # acks=all: a job that Kafka acknowledged is a job that gets a result.
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    await consumer.start()
    await producer.start()
    try:
        for job_id in sorted(waiting):
            request = {
                "type": "submit",
                "job_id": job_id,  # the same id again is the same job
                "request": {"model": "gpt-5.2", "input": f"Say hello to {job_id}."},
                "timeout_ms": 120_000,
            }
            await producer.send_and_wait(f"{prefix}requests", key=job_id.encode(), value=json.dumps(request).encode())
            print(f"submitted {job_id}", file=sys.stderr)

        async with asyncio.timeout(within_s):
            async for record in consumer:
                result = json.loads(record.value) if record.value else {}
                if result.get("job_id") in waiting:
                    waiting.remove(result["job_id"])
                    print(f"{result['job_id']} {result['outcome']}: {text_of(result)}")
                    if not waiting:
                        return 0
    except TimeoutError:
        print(f"no result within {within_s:g} s for: {', '.join(sorted(waiting))}", file=sys.stderr)
    finally:
        await producer.stop()
        await consumer.stop()
    return 1


def text_of(result: dict[str, Any]) -> str:
    """The model's text. A large response is kept in the blob store, and the record then holds its SHA-256."""
    body = result.get("response") or {}
    if body.get("kind") != "inline":
        return str(body.get("sha256", result.get("reason", {}).get("code", "")))
    parts = (part for item in body["value"].get("output", []) for part in item.get("content", []))
    return "".join(part.get("text", "") for part in parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", default=os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"))
    parser.add_argument("--prefix", default="backstop.", help="of the topics")
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("--within-s", type=float, default=120.0)
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.bootstrap, given.prefix, given.jobs, given.within_s)))
