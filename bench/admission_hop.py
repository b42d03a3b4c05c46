"""What a job with a limit waits for where its lane is open: request to create accepted, beside jobs without a limit in
the same run, one after the other.

    python -m bench.admission_hop [--rate 20] [--seconds 40] [--http]

The limits are far away, so none of the jobs waits for room. Prints one JSON object; `extra_ms` is the difference of the
two quantiles, with the 95 % interval of the median's from 2,000 resamples of pairs.
"""

import argparse
import asyncio
import json
import random
import sys
from statistics import median
from typing import Any

import aiohttp
from aiokafka import AIOKafkaProducer

from backstop.runtime.http.api_client import submit
from bench.system import Downstream, ledger, now_ms, spread, system_of

LIMITS = '[{"model": "gpt-limited", "tokens_per_min": 1000000000, "requests_per_min": 1000000, "concurrent": 100000}]'
MODELS = ("gpt-free", "gpt-limited")
WARM_PAIRS = 200
RESAMPLES = 2_000


async def measured(rate: float, seconds: float, *, over_http: bool) -> dict[str, Any]:
    profile = {"models": {"*": {"queue": {"kind": "fixed", "s": 0.1}, "run": {"kind": "fixed", "s": 2.0}}}}
    async with system_of(profile, {"BACKSTOP_LIMITS": LIMITS}, 1) as system:
        downstream = Downstream(system)
        reading = asyncio.create_task(downstream.run())
        producer = AIOKafkaProducer(bootstrap_servers=system.bootstrap, acks="all")
        await producer.start()
        sent_ms: dict[str, float] = {}
        pairs = WARM_PAIRS + round(rate * seconds / 2)
        async with aiohttp.ClientSession(system.url) as session:
            for number in range(2 * pairs):
                job_id = f"bench-{number}"
                value = {"type": "submit", "job_id": job_id, "request": {"model": MODELS[number % 2], "input": "x"}}
                sent_ms[job_id] = now_ms()
                if over_http:
                    await submit(session, value, job_id)
                else:
                    topic = f"{system.runtime.topic_prefix}requests"
                    await producer.send(topic, json.dumps(value).encode(), key=job_id.encode())
                await asyncio.sleep(1 / rate)
        await downstream.until(len(sent_ms))
        creates = {line["job"]: line["at_ms"] for line in await ledger(system.simulator_url, "creates")}
        reading.cancel()
        await producer.stop()
    took = {job_id: creates[job_id] - sent_ms[job_id] for job_id in sent_ms}
    free, limited = ([took[f"bench-{2 * pair + which}"] for pair in range(WARM_PAIRS, pairs)] for which in (0, 1))
    return {
        "what": "request to create accepted", "over": "http" if over_http else "kafka", "rate_per_s": rate,
        "without_limit_ms": spread(free), "with_limit_ms": spread(limited), "extra_ms": extra(free, limited),
    }  # fmt: skip


def extra(free: list[float], limited: list[float]) -> dict[str, Any]:
    draw, count = random.Random(1), len(free)
    found = []
    for _ in range(RESAMPLES):
        pairs = [draw.randrange(count) for _ in range(count)]
        found.append(median(limited[each] for each in pairs) - median(free[each] for each in pairs))
    found.sort()
    low, high = (round(found[round(RESAMPLES * part)], 1) for part in (0.025, 0.975))
    return {"p50": round(median(limited) - median(free), 1), "p50_95_percent": [low, high]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.admission_hop", description=__doc__)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--http", action="store_true")
    given = parser.parse_args()
    print(json.dumps(asyncio.run(measured(given.rate, given.seconds, over_http=given.http)), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
