"""Measures what an option costs: bursts of jobs with and without it.

    python -m bench.options encryption|tracing [--jobs 2000] [--rounds 2]

`encryption`: bodies in the logs, in blobs, and in encrypted blobs. `tracing`: without spans, and with spans that go to
a collector, which is this process and only counts them. A round is all states and then the same in reverse order, each
a whole system of its own: so the machine's load affects all alike. Prints jobs a second and the processor time of a job
(worker, `serve` and projection) of each run, and the medians beside those of the state before.
"""

import argparse
import asyncio
import base64
import json
import os
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from aiohttp import web
from aiokafka import AIOKafkaProducer

from bench.processes import cpu_s
from bench.system import Downstream, now_ms, our_pids, submit_value, system_of

KEY_BYTES = 32
RUN = {"kind": "uniform", "low_s": 0.5, "high_s": 1.5}
PROFILE = {"models": {"*": {"queue": {"kind": "fixed", "s": 0.1}, "run": RUN}}}
States = Mapping[str, Mapping[str, str]]
"""By name: settings of all processes."""


async def burst(jobs: int, settings: Mapping[str, str]) -> dict[str, float]:
    """So many jobs at once."""
    async with system_of(PROFILE, {"BACKSTOP_POLL_RATE_MAX_PER_S": "2000", **settings}, 1) as system:
        downstream = Downstream(system)
        reading = asyncio.create_task(downstream.run())
        producer = AIOKafkaProducer(bootstrap_servers=system.bootstrap, acks="all", linger_ms=5)
        await producer.start()
        pids = our_pids(system).values()
        topic, before_s, began_ms = f"{system.runtime.topic_prefix}requests", cpu_s(pids), now_ms()
        for number in range(jobs):
            await producer.send(topic, submit_value(f"burst-{number}"), key=f"burst-{number}".encode())
        await producer.flush()
        await downstream.until(jobs)
        took_s = (now_ms() - began_ms) / 1000
        used_s = cpu_s(pids) - before_s
        reading.cancel()
        await producer.stop()
    return {"jobs_per_s": round(jobs / took_s, 1), "cpu_ms_a_job": round(1000 * used_s / jobs, 2)}


def encryption(folder: Path) -> States:
    keys = folder / "payload-keys"
    keys.touch(0o600)
    keys.write_text(f"default:{base64.b64encode(os.urandom(KEY_BYTES)).decode()}\n")
    blobs = {"BACKSTOP_INLINE_BYTES_MAX": "0"}
    return {"in the logs": {}, "blobs": blobs, "encrypted": {**blobs, "BACKSTOP_PAYLOAD_KEYS_FILE": str(keys)}}


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[str, list[int]]]:
    """Its address, and the bytes of each request that it took."""
    taken: list[int] = []

    async def take(request: web.Request) -> web.Response:
        taken.append(len(await request.read()))
        return web.Response(content_type="application/x-protobuf")

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", taken
    finally:
        await runner.cleanup()


async def in_turns(states: States, jobs: int, rounds: int) -> dict[str, Any]:
    runs: dict[str, dict[str, list[float]]] = {name: {"jobs_per_s": [], "cpu_ms_a_job": []} for name in states}
    for name in [*states, *reversed(list(states))] * rounds:
        for figure, value in (await burst(jobs, states[name])).items():
            runs[name][figure].append(value)
        print(name, runs[name], file=sys.stderr, flush=True)
    medians = {name: {of: statistics.median(values) for of, values in run.items()} for name, run in runs.items()}
    names = list(states)
    pairs = dict.fromkeys([*pairwise(names), (names[0], names[-1])])
    changes = {
        f"{after} against {before}": {
            of: f"{100 * (medians[after][of] / medians[before][of] - 1):+.1f} %" for of in medians[after]
        }
        for before, after in pairs
    }
    return {"runs": runs, "medians": medians, "changes": changes}


async def measured(what: str, jobs: int, rounds: int) -> dict[str, Any]:
    if what == "encryption":
        with tempfile.TemporaryDirectory(prefix="backstop-bench-") as folder:
            return await in_turns(encryption(Path(folder)), jobs, rounds)
    async with collector() as (url, taken):
        found = await in_turns({"without spans": {}, "traced": {"BACKSTOP_OTEL_ENDPOINT": url}}, jobs, rounds)
        return {**found, "collector": {"requests": len(taken), "bytes": sum(taken)}}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.options", description=__doc__)
    parser.add_argument("what", choices=("encryption", "tracing"))
    parser.add_argument("--jobs", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    print(json.dumps(asyncio.run(measured(given.what, given.jobs, given.rounds)), indent=1))


if __name__ == "__main__":
    main()
