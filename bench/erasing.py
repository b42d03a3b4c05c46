"""Measures the erasure of a tenant with many jobs, with broker, projection and `serve` as real processes under load.

    python -m bench.erasing [--jobs 100000] [--rate 20]

Fills logs and read model with ended jobs of the tenant `default` (seven records each, 1.5 kB of output, in the
records). Then `backstop erase --tenant default --keep-at-provider --execute` runs, while jobs of another tenant come at
`--rate`. Prints its seconds, its processor time in the projection, and how long new results took to become rows. Not a
part of it: deletes at the provider, workers, and blobs (bodies stand in the records).
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from backstop.runtime.process.clock import make_clock
from bench.readers import GIVE_UP_S, HOUR_MS, Readers, job, readers, watch_rows

BATCH = 5_000
POLL_S = 1.0
JOBS_A_SECOND = 100
"""The slowest projection that is waited for."""
FIRST_OF_OTHER = 9_000_000


async def filled(running: Readers, jobs: int) -> float:
    """Until all jobs are in the read model; the seconds it took."""
    began_s, now_ms = time.monotonic(), make_clock()() - HOUR_MS
    for first in range(0, jobs, BATCH):
        for number in range(first, min(jobs, first + BATCH)):
            beginning, end = job(number, f"s{number % 1_000}", now_ms - jobs + number)
            await running.send([*beginning, *end])
        await running.producer.flush()
        print(f"{first + BATCH} jobs written, {await ended(running)} read", file=sys.stderr, flush=True)
    async with asyncio.timeout(GIVE_UP_S + jobs / JOBS_A_SECOND):
        while await ended(running) < jobs:
            await asyncio.sleep(POLL_S)
    return time.monotonic() - began_s


async def ended(running: Readers) -> int:
    def count(connection: Any) -> int:
        ((found,),) = connection.rows("SELECT COUNT(*) FROM jobs WHERE result IS NOT NULL")
        return int(found)

    return await running.database.read(count)


async def load(running: Readers, rate: float) -> None:
    for number in range(FIRST_OF_OTHER, sys.maxsize):
        beginning, end = job(number, "load", make_clock()(), tenant="other")
        await running.send([*beginning, *end])
        await asyncio.sleep(1 / rate)


async def erased(running: Readers, folder: Path) -> dict[str, Any]:
    command = ("erase", "--tenant", "default", "--keep-at-provider", "--execute", "--why", "measured", "--by", "bench")
    environment = {
        **os.environ, "KAFKA_BOOTSTRAP_SERVERS": running.settings.kafka_bootstrap_servers,
        "BACKSTOP_TOPIC_PREFIX": running.settings.topic_prefix, "BACKSTOP_DATA_DIR": str(folder),
        "BACKSTOP_PARTITIONS": str(running.settings.partitions),
        "BACKSTOP_DATABASE_URL": f"sqlite:///{folder}/readmodel.db",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "backstop.cli", *command, env=environment, stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert process.returncode == 0, told
    found: dict[str, Any] = json.loads(told)
    return found


async def measured(jobs: int, rate: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="backstop-bench-") as name:
        folder = Path(name)
        async with readers(folder) as running:
            fill_s = await filled(running, jobs)
            running.acked_s.clear()
            rows_s: dict[str, float] = {}
            watching = asyncio.create_task(watch_rows(running.database, rows_s))
            loading = asyncio.create_task(load(running, rate))
            cpu_s, began_s = running.cpu_s(), time.monotonic()
            told = await erased(running, folder)
            took_s = time.monotonic() - began_s
            after_s = running.cpu_s()
            loading.cancel()
            watching.cancel()
            delays_ms = sorted((rows_s[key] - at_s) * 1_000 for key, at_s in running.acked_s.items() if key in rows_s)
            return {
                "jobs": jobs, "filled_in_s": round(fill_s, 1), "erased_in_s": round(took_s, 1),
                "told": told.get("done"),
                "cpu_s": {name: round(after_s[name] - cpu_s[name], 1) for name in cpu_s},
                "result_to_row_ms": {
                    "n": len(delays_ms), "p50": round(delays_ms[len(delays_ms) // 2], 1),
                    "p99": round(delays_ms[len(delays_ms) * 99 // 100], 1),
                } if delays_ms else None,
                "load_average": os.getloadavg()[0],
            }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.erasing", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=20.0)
    given = parser.parse_args()
    print(json.dumps(asyncio.run(measured(given.jobs, given.rate)), indent=1))


if __name__ == "__main__":
    main()
