"""`python -m tests.simulation --seed 123 --jobs 50 --trace` shows one run; `--seeds 0:2000` runs many, and says what
they met.

A seed that failed prints itself, what was violated and its last steps, and fails again in exactly the same way. Keep it
in `seeds.txt`: those run first.
"""

import argparse
import sys
from collections import Counter

from tests.simulation.many import kept_seeds, must_meet, prepare, run_many
from tests.simulation.run import Outcome, simulate
from tests.simulation.wrong import BUGS, Wrong

FAILURES_SHOWN_MAX = 5
PROGRESS_EVERY = 250


def describe(outcome: Outcome, jobs: int) -> str:
    lines = [f"seed {outcome.seed} FAILED:", *(f"  {violation}" for violation in outcome.violations)]
    if outcome.steps:
        lines += ["its last steps:", *outcome.steps]
    return "\n".join([*lines, f"again: python -m tests.simulation --seed {outcome.seed} --jobs {jobs} --trace"])


def _one(seed: int, jobs: int, wrong: Wrong, trace: bool, operators: bool) -> int:
    prepare()
    outcome = simulate(seed, jobs, wrong, trace=trace, operators=operators)
    if trace:
        print("\n".join(outcome.steps))
    if outcome.violations:
        print(describe(outcome, jobs))
        return 1
    print(f"seed {seed}: all invariants held, {outcome.virtual_s:.0f} virtual seconds")
    return 0


def _many(arguments: argparse.Namespace, wrong: Wrong) -> int:
    first, _, end = arguments.seeds.partition(":")
    kept = kept_seeds()
    seeds = [*kept, *(seed for seed in range(int(first), int(end)) if seed not in kept)]
    met: Counter[str] = Counter()
    failed = 0
    for done, outcome in enumerate(
        run_many(seeds, arguments.jobs, wrong, arguments.processes, operators=arguments.operators), start=1
    ):
        met.update(outcome.met)
        if done % PROGRESS_EVERY == 0:
            print(f"{done} of {len(seeds)} seeds, {failed} failed", file=sys.stderr, flush=True)
        if outcome.violations:
            failed += 1
            if failed <= FAILURES_SHOWN_MAX:
                print(describe(outcome, arguments.jobs), flush=True)
    if arguments.met:
        print("\n".join(f"{count:9} {what}" for what, count in sorted(met.items())))
    never = [what for what in must_meet() if not met[what]] if arguments.must_meet else []
    for what in never:
        print(f"NEVER MET: {what}")
    print(f"{len(seeds)} seeds of {arguments.jobs} jobs: {failed} failed, {len(met)} kinds of things met")
    return 1 if failed or never else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="one run")
    what.add_argument("--seeds", metavar="FIRST:END", help="many runs, those of seeds.txt first")
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--trace", action="store_true", help="with --seed: every step")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--operators", action="store_true", help="limits, priorities, and changes and retries of jobs")
    parser.add_argument("--met", action="store_true", help="with --seeds: how often each thing was met")
    parser.add_argument(
        "--must-meet", action="store_true", help="with --seeds: fail if anything of must_meet.txt was not met"
    )
    parser.add_argument("--wrong", choices=BUGS, help="hand in this wrong variant")
    arguments = parser.parse_args()
    wrong = Wrong(**{arguments.wrong: True}) if arguments.wrong else Wrong()
    if arguments.seed is not None:
        return _one(arguments.seed, arguments.jobs, wrong, arguments.trace, arguments.operators)
    return _many(arguments, wrong)


if __name__ == "__main__":
    sys.exit(main())
