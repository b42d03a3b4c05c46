"""Compares Backstop with what its users would take instead, on this machine.

    make bench-peers [BENCH="--runs 1 --only backstop,Restate --scenario burst"]

The work: accept a job, create a response in background mode, hear of its end by a signed webhook (a poll where none
comes), read it, and make one result visible. Each round starts everything anew, on empty disks. Contestants take turns
within each round, so that the machine's load affects all. Prints one JSON object a run, then the page of medians. Exit
1: a goal was missed. Run it on an idle machine.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.judging import flat
from bench.peers.contestants import CONTESTANTS, Work
from bench.peers.measure import SCENARIOS, TOGETHER, Run, now_ms

PLAIN, RESTATE = "FastAPI and PostgreSQL", "Restate"
Runs = Mapping[tuple[str, str, str], Sequence[float]]
"""By scenario, figure and contestant: the value of each run."""

GOALS: Sequence[tuple[str, str, str, float, bool]] = (
    ("50 jobs/s", "added_ms.p50", RESTATE, 0.8, False),
    ("burst", "jobs_per_s", PLAIN, 1.0, True),
    ("kill", "duplicate_creates", RESTATE, 0.0, False),
)
"""Scenario, figure, other contestant, factor, and whether Backstop is to have at least, or at most, the factor × that
of the other.
"""

TOLD = (
    "added_ms.p50", "added_ms.p99", "submission_ms.p50", "submission_ms.p99", "jobs_per_s", "cpu_ms_a_job",
    "memory_mib", "duplicate_creates", "kill_to_last_result_s",
)  # fmt: skip
MEANING = """
- `added_ms`: from the webhook's first attempt until the result can be read by others: a `read_committed` consumer, a
  NOTIFY of the result's own transaction, a caller attached to its workflow.
- `submission_ms`: from the caller's request until the provider accepted the create.
- `cpu_ms_a_job`, `memory_mib` (PSS): the application's processes and its servers (broker, database).
- `duplicate_creates`: creates beyond the first of a job, each of them paid.
- `kill`: SIGKILL of all processes but the servers after 10 s of 50 jobs/s; they start again after 0.5 s. The load goes
  on for 10 s after the kill.
"""


async def several(contestant: str, scenarios: Sequence[str], workers: int = 1) -> dict[str, dict[str, Any]]:
    """The figures of scenarios with runs of the same length, one after the other on one system."""
    asked = [SCENARIOS[scenario] for scenario in scenarios]
    (run_s,) = {each.run_s for each in asked}
    profile = {"models": {"*": {"queue": {"kind": "fixed", "s": 0.0}, "run": {"kind": "fixed", "s": run_s}}}}
    found: dict[str, dict[str, Any]] = {}
    ended = 0
    with tempfile.TemporaryDirectory(prefix="backstop-peers-") as folder:
        work = Work(Path(folder), profile, each=asked[0].rate_per_s is not None, workers=workers)
        async with CONTESTANTS[contestant](work, now_ms) as running:
            for number, scenario in enumerate(scenarios):
                run = Run(running, SCENARIOS[scenario], f"job{number}", ended)
                found[scenario] = await run.figures()
                ended = run.ended
    return found


def judged(runs: Runs) -> tuple[list[str], list[str]]:
    """The goals that the medians of these runs reach, and those that they miss. A goal without runs is in neither."""
    reached: list[str] = []
    missed: list[str] = []
    for scenario, figure, other, factor, at_least in GOALS:
        own, others = (runs.get((scenario, figure, name)) for name in ("backstop", other))
        if own and others:
            have, bound = statistics.median(own), factor * statistics.median(others)
            sign, good = ("≥", have >= bound) if at_least else ("≤", have <= bound)
            sentence = f"{scenario}, `{figure}`: {have:g}; the goal is {sign} {factor:g} × that of {other}, {bound:g}"
            (reached if good else missed).append(sentence)
    return reached, missed


def page(runs: Runs, command: str) -> str:
    names = [name for name in CONTESTANTS if any(key[2] == name for key in runs)]
    lines = [
        "# Beside what else one would take", "",
        f"Made by `{command}` on {os.cpu_count()} cores ({platform.machine()}), CPython {platform.python_version()}.",
        "Medians, and in brackets the least and the most of the runs.", "",
        f"| scenario | figure | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}",
    ]  # fmt: skip
    for scenario in SCENARIOS:
        for figure in TOLD:
            cells = [_cell(runs.get((scenario, figure, name), ())) for name in names]
            if any(cells):
                lines.append(f"| {scenario} | `{figure}` | {' | '.join(cells)} |")
    reached, missed = judged(runs)
    lines += [MEANING.rstrip(), ""]
    lines += [f"- Reached: {sentence}." for sentence in reached] + [f"- Missed: {sentence}." for sentence in missed]
    return "\n".join([*lines, ""])


def _cell(values: Sequence[float]) -> str:
    return f"{statistics.median(values):g} ({min(values):g} to {max(values):g})" if values else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default=",".join(CONTESTANTS), help="contestants, with commas between them")
    parser.add_argument("--scenario", default=",".join(SCENARIOS))
    parser.add_argument("--page", type=Path, help="the page to write")
    given = parser.parse_args()
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    asked = given.scenario.split(",")
    for together in (tuple(each for each in group if each in asked) for group in TOGETHER):
        for _ in range(given.runs if together else 0):
            for contestant in given.only.split(","):
                for scenario, result in asyncio.run(several(contestant, together)).items():
                    load = round(os.getloadavg()[0], 2)
                    line = {"scenario": scenario, "contestant": contestant, "load": load, **result}
                    print(json.dumps(line), flush=True)
                    for name, value in flat(result):
                        found[scenario, name, contestant].append(value)
    text = page(found, "make bench-peers")
    print(text)
    if given.page:
        given.page.write_text(text)
    return 1 if judged(found)[1] else 0


if __name__ == "__main__":
    sys.exit(main())
