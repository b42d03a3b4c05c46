"""Polls of the whole system without webhooks, beside the figures of pure virtual time. Needs some idle processor.

    python -m bench.polling_system [--jobs 700] [--rate 4]

Run times are lognormal (median 10 s, sigma 0.8), and the simulator loses every webhook. The delay is taken from the
simulator's truth: from the end of a response to the first poll that was answered after it. Prints one JSON object.

Between the time of a poll and its call are a timer's record, the fold and the poller: `late_s`, measured in the same
run (call less due time). It is the machine's and not the schedule's, so the pure figures are given with polls that late
as well. Exit 1: polls a job or the mean delay differ from those by more than 10 %, or polls are later than a second.
"""

import argparse
import asyncio
import json
import sys
from collections import defaultdict
from statistics import fmean
from typing import Any

from aiokafka import AIOKafkaProducer

from backstop.dev.system import System
from backstop.runtime.kafka.topic_reader import open_reader
from bench.polling import lognormal
from bench.polling_outage import World, simulate
from bench.processes import cpu_s
from bench.system import Downstream, ledger, submit_value, system_of
from schemas.codec import decode
from schemas.responses import RESPONSE_FACT, ResponseTimerFired

MEDIAN_S, SIGMA = 10.0, 0.8
RATE_PER_S = 250.0
WITHIN = 0.1
LATE_S_MAX = 1.0


async def whole(jobs: int, rate: float) -> dict[str, Any]:
    run = {"kind": "lognormal", "median_s": MEDIAN_S, "sigma": SIGMA}
    profile = {
        "models": {"*": {"queue": {"kind": "fixed", "s": 0.0}, "run": run}},
        "rates": {"webhook_lost": 1.0},
    }
    settings = {"BACKSTOP_POLL_RATE_MAX_PER_S": str(RATE_PER_S), "BACKSTOP_WEBHOOKS_EXPECTED": "false"}
    settings |= {"BACKSTOP_POLL_SCHEDULE": "learned"}
    async with system_of(profile, settings, 1) as system:
        downstream = Downstream(system)
        reading = asyncio.create_task(downstream.run())
        producer = AIOKafkaProducer(bootstrap_servers=system.bootstrap, acks="all")
        await producer.start()
        worker = system.supervisor.pid("worker")
        assert worker is not None
        before_s = cpu_s([worker])
        for number in range(jobs):
            job_id = f"bench-{number}"
            await producer.send(f"{system.runtime.topic_prefix}requests", submit_value(job_id), key=job_id.encode())
            await asyncio.sleep(1 / rate)
        await downstream.until(jobs)
        worker_s = cpu_s([worker]) - before_s
        truth, calls = await ledger(system.simulator_url, "truth"), await ledger(system.simulator_url, "calls")
        due = await due_ms(system)
        reading.cancel()
        await producer.stop()
    return {**figures(truth, calls, due, jobs), "worker_cpu_ms_a_job": round(1_000 * worker_s / jobs, 2)}


async def due_ms(system: System) -> dict[str, list[int]]:
    """Response → the times of its scheduled polls."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    async with open_reader(system.runtime) as reader:
        for record in await reader.read_all(reader.partitions("responses")):
            fact = decode(RESPONSE_FACT, record.value)
            if isinstance(fact, ResponseTimerFired):
                found[fact.response_id].append(fact.due_ms)
    return found


def figures(
    truth: list[dict[str, Any]], calls: list[dict[str, Any]], due: dict[str, list[int]], jobs: int
) -> dict[str, Any]:
    """Of the second half of the jobs: the first half is for learning."""
    ended = {line["response"]: line["at_ms"] for line in truth if line["state"] == "completed"}
    late = {line["response"] for line in truth if int(line["job"].rpartition("-")[2]) >= jobs // 2}
    polls: defaultdict[str, list[float]] = defaultdict(list)
    for line in calls:
        if line["op"] == "poll" and line["status"] == 200 and line["response"] in late:
            polls[line["response"]].append(line["at_ms"])
    vain = [sum(at < ended[each] for at in polls[each]) for each in late]
    delays = [min(at for at in polls[each] if at >= ended[each]) - ended[each] for each in late]
    lateness = [
        at - at_due for each in late for at, at_due in zip(sorted(polls[each]), sorted(due[each]), strict=False)
    ]
    return {
        "polls": round(fmean(vain), 2), "delay_s": round(fmean(delays) / 1_000, 2),
        "late_s": round(fmean(lateness) / 1_000, 3), "jobs": len(late),
    }  # fmt: skip


def pure(rate: float, late_s: float) -> dict[str, Any]:
    until_s = 900.0
    found = simulate(World(lognormal(MEDIAN_S, SIGMA), rate, RATE_PER_S, until_s, (0.0, until_s), late_s=late_s))
    ends = [each for each in found.ends if each.ended_s > 300]
    return {
        "polls": round(fmean(each.polls for each in ends), 2),
        "delay_s": round(fmean(each.found_s - each.ended_s for each in ends), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.polling_system", description=__doc__)
    parser.add_argument("--jobs", type=int, default=700)
    parser.add_argument("--rate", type=float, default=4.0)
    given = parser.parse_args()
    found = asyncio.run(whole(given.jobs, given.rate))
    expected = pure(given.rate, found["late_s"])
    print(json.dumps({"pure": pure(given.rate, 0.0), "pure_as_late": expected, "system": found}, indent=1))
    off = [name for name in ("polls", "delay_s") if abs(found[name] / expected[name] - 1) > WITHIN]
    return 1 if off or found["late_s"] > LATE_S_MAX else 0


if __name__ == "__main__":
    sys.exit(main())
