"""What admission costs: CPU for each job, memory for each waiting job, and the time of the next grant by what waits.

    python -m bench.limits_costs [--waiting 10000,100000,1000000]

The product's own admission, in one process, with one lane, a hundred tenants and three classes. CPU is of the process.
A job is put, granted, accepted and ended. Jobs wait in turn for a limit of requests that time lets through one by one.
"""

import argparse
import gc
import os
import time
from pathlib import Path
from typing import Final

from schemas.base import Priority
from streams.policy.admission import Admission, Grant
from streams.policy.limits import PRIORITIES, read_rules
from streams.policy.sizes import asked_for
from streams.policy.waiting import Waiter

RULES: Final = '[{"tokens_per_min": 60000000, "requests_per_min": 60000, "concurrent": 100000}]'
TENANTS: Final = tuple(f"tenant-{number}" for number in range(100))
GRANTS: Final = 5_000
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def measure(waiting: int) -> str:
    admission, keys = Admission(read_rules(RULES), "a"), [f"job_{number:032x}".encode() for number in range(waiting)]
    before, began = resident_bytes(), time.process_time()
    for number, key in enumerate(keys):
        priority: Priority = PRIORITIES[number % 3]
        asked = asked_for(TENANTS[number % 100], "m", 2_000 + number % 4_000, 1_000)
        admission.put(Waiter(number % 12, key, asked, 10**13 + number, priority), 0)
    put_s, grown = time.process_time() - began, resident_bytes() - before
    grants, now_ms, began = 0, 0, time.process_time()
    while grants < min(GRANTS, waiting):
        now_ms += 20
        while isinstance(turn := admission.next("m", now_ms), Grant):
            place = (turn.waiter.partition, turn.waiter.key)
            admission.accepted(place, now_ms)
            admission.ended(place, (800, 700), now_ms + 5_000, ran=True)
            grants += 1
    grant_s = time.process_time() - began
    return (
        f"{waiting:9,} waiting: {1_000 * put_s / waiting:.4f} ms to put, "
        f"{1_000 * grant_s / grants:.4f} ms to grant and end, {grown / waiting:.0f} bytes each"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="What admission costs.")
    parser.add_argument("--waiting", default="10000,100000,1000000")
    for waiting in map(int, parser.parse_args().waiting.split(",")):
        print(measure(waiting), flush=True)


if __name__ == "__main__":
    main()
