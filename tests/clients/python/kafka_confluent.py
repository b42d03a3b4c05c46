"""confluent-kafka: a job in over a tenant's requests topic, its one result out of `results`.

Environment: `BOOTSTRAP`, `PREFIX`, `TENANT`, `COMPRESSION`.
"""

import json
import os
import sys
import time

from confluent_kafka import Consumer, Producer

bootstrap, prefix, tenant = (os.environ[name] for name in ("BOOTSTRAP", "PREFIX", "TENANT"))
job_id = f"confluent-{os.getpid()}"
consumer = Consumer(
    {
        "bootstrap.servers": bootstrap,
        "group.id": job_id,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
    }
)
consumer.subscribe([f"{prefix}results"])
producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "compression.type": os.environ["COMPRESSION"]})
request = {"type": "submit", "job_id": job_id, "request": {"model": "gpt-5.2", "input": "Say hello."}}
producer.produce(f"{prefix}requests.{tenant}", key=job_id, value=json.dumps(request))
producer.flush(30)
until = time.monotonic() + 90
results = []
while time.monotonic() < until and not results:
    record = consumer.poll(1.0)
    if record is not None and not record.error() and record.key().decode() == f"{tenant}:{job_id}":
        results.append(json.loads(record.value()))
consumer.close()
sys.stdout.write(json.dumps([result["outcome"] for result in results]))
