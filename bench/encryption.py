"""Measures what encryption at rest costs: bursts of jobs with bodies in the logs, in blobs, and in encrypted blobs.

    python -m bench.encryption [--jobs 2000] [--rounds 2]

A round is the three states and then the same in reverse order, each a whole system of its own: so the machine's load
affects all alike. Prints jobs a second and the processor time of a job (all processes but simulator and broker) of each
run, and the medians beside those of the state before.
"""

import argparse
import asyncio
import base64
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.system import burst

OURS = ("worker", "serve", "projection")
KEY_BYTES = 32


def states(folder: Path) -> dict[str, dict[str, str]]:
    keys = folder / "payload-keys"
    keys.touch(0o600)
    keys.write_text(f"default:{base64.b64encode(os.urandom(KEY_BYTES)).decode()}\n")
    blobs = {"BACKSTOP_INLINE_BYTES_MAX": "0"}
    return {"in the logs": {}, "blobs": blobs, "encrypted": {**blobs, "BACKSTOP_PAYLOAD_KEYS_FILE": str(keys)}}


def ours_ms(figures: Mapping[str, Any]) -> float:
    return round(sum(figures["cpu_ms_a_job"][name] for name in OURS), 2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.encryption", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="backstop-bench-") as folder:
        each = list(states(Path(folder)).items())
        for name, settings in [*each, *reversed(each)] * given.rounds:
            figures = asyncio.run(burst(given.jobs, settings))
            of_state = found.setdefault(name, {"jobs_per_s": [], "cpu_ms_a_job": []})
            of_state["jobs_per_s"].append(figures["jobs_per_s"])
            of_state["cpu_ms_a_job"].append(ours_ms(figures))
            print(name, of_state, file=sys.stderr, flush=True)
    medians = {name: {of: statistics.median(values) for of, values in all_of.items()} for name, all_of in found.items()}
    changes = {
        f"{after} against {before}": {
            of: f"{100 * (medians[after][of] / medians[before][of] - 1):+.1f} %" for of in medians[after]
        }
        for before, after in (("in the logs", "blobs"), ("blobs", "encrypted"), ("in the logs", "encrypted"))
    }
    print(json.dumps({"runs": found, "medians": medians, "changes": changes}, indent=1))


if __name__ == "__main__":
    main()
