"""Compares two checkouts in turns (A B A B ...), so that the machine's load affects both.

    python -m bench.paired --other ../before [--rounds 4] [--within 3]

A is the other checkout, with its own `.venv`; B is this one. Each round runs the scenes `steady` and `burst` in both.
Prints the medians of each figure and the change in percent. Exit 1: a figure that must not grow grew by more than
`--within`. Run it on an idle machine.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from bench.judging import flat

HERE = Path(__file__).parents[1]
RUN_WITHIN_S = 900
SCENES = ("steady", "burst")
NOT_MORE = (
    "steady.at_50.added_ms.p50", "steady.at_50.submission_ms.p50",
    *(f"{what}.of.{ours}" for what in ("steady.at_50", "burst") for ours in ("worker", "serve", "projection")),
)  # fmt: skip
"""Figures that must not grow."""
NOT_LESS = ("burst.jobs_per_s",)


def measured(checkout: Path, scene: str) -> dict[str, float]:
    done = subprocess.run(
        [checkout / ".venv/bin/python", "-m", "bench", "--scene", scene],
        cwd=checkout, stdout=subprocess.PIPE, text=True, timeout=RUN_WITHIN_S, check=True,
    )  # fmt: skip
    return {f"{scene}.{name}": value for name, value in flat(json.loads(done.stdout.splitlines()[-1]))}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.paired", description=__doc__)
    parser.add_argument("--other", type=Path, required=True, help="the checkout to compare with")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--within", type=float, default=3.0, help="percent")
    given = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {"A": defaultdict(list), "B": defaultdict(list)}
    for number in range(given.rounds):
        for side, checkout in (("A", given.other.resolve()), ("B", HERE)):
            for scene in SCENES:
                print(f"round {number + 1} {side} {scene}", file=sys.stderr, flush=True)
                for name, value in measured(checkout, scene).items():
                    found[side][name].append(value)
    worse: list[str] = []
    print(f"{'figure':44} {'A':>12} {'B':>12} {'change':>8}")
    for name in sorted(set(found["A"]) & set(found["B"])):
        a, b = statistics.median(found["A"][name]), statistics.median(found["B"][name])
        change = 100 * (b - a) / a if a else 0.0
        print(f"{name:44} {a:12.3f} {b:12.3f} {change:+7.1f}%")
        if (name in NOT_MORE and change > given.within) or (name in NOT_LESS and -change > given.within):
            worse.append(name)
    print(f"worse by more than {given.within:g} %: {', '.join(worse) or 'nothing'}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
