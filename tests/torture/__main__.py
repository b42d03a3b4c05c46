"""`python -m tests.torture --jobs 20000 --minutes 15 --seed 7 --report docs/torture-report.md`.

Exit 0: every invariant held. 1: one did not; logs, ledgers and the broker's data are kept, and named. 2: it could not
be run.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import orjson

from backstop.cli.interrupts import OnKill, run_interruptible
from backstop.dev.broker import BrokerError, local_kafka
from tests.torture.plan import Plan, rate_per_s, usual_limits
from tests.torture.report import as_json, as_markdown, command
from tests.torture.run import run

HELD, VIOLATED, NOT_RUN = 0, 1, 2


def main() -> int:
    arguments = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="backstop-torture-"))
    plan = Plan(
        folder=folder, jobs=arguments.jobs, minutes=arguments.minutes, seed=arguments.seed, workers=arguments.workers,
        faults=arguments.faults, short=arguments.short, breaks=not arguments.calm,
        timeout_ms=int(arguments.timeout * 1000), operators=arguments.operators, budget=arguments.budget,
        hedges=arguments.hedges,
        limits=_limits(arguments.limits, rate_per_s(arguments.jobs, arguments.minutes)),
    )  # fmt: skip
    code = NOT_RUN

    async def torture(on_kill: OnKill) -> int:
        outcome = await run(plan, _tell, on_kill)
        report = await as_json(outcome, local_kafka(os.environ), command(vars(arguments), vars(_arguments([]))))
        text = as_markdown(report)
        if arguments.report:
            arguments.report.write_text(text)
            arguments.report.with_suffix(".json").write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
        print(text)
        for violation in outcome.verdict.violations:
            print(f"VIOLATED {violation}", file=sys.stderr)
        return VIOLATED if outcome.verdict.violations else HELD

    try:
        code = run_interruptible(torture)
    except BrokerError as error:
        print(f"torture: {error}", file=sys.stderr)
    finally:
        _keep_or_remove(folder, arguments.keep, failed=code in (VIOLATED, NOT_RUN))
    return code


def _keep_or_remove(folder: Path, keep: Path | None, *, failed: bool) -> None:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, keep, dirs_exist_ok=True, symlinks=True)
    if keep is not None or failed:
        print(f"logs/, ledgers/, readmodel.db and the topics (kafka/) are kept in {keep or folder}", file=sys.stderr)
    if keep is not None or not failed:
        shutil.rmtree(folder, ignore_errors=True)


def _limits(asked: str, jobs_per_s: float) -> str:
    return {"usual": usual_limits(jobs_per_s), "none": ""}.get(asked, asked)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=sys.modules[__name__].__doc__)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=1.5, help="how long things are broken")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=60.0, help="deadline of each job in seconds")
    parser.add_argument("--faults", default="torture", help="the simulator's profile")
    parser.add_argument(
        "--limits", default="usual", help="as BACKSTOP_LIMITS, usual (of each kind, with room), or none; with limits, "
        "jobs have priorities and start times",
    )  # fmt: skip
    parser.add_argument(
        "--budget", action=argparse.BooleanOptionalAction, default=True, help="a budget stops creates again and again"
    )
    parser.add_argument(
        "--hedges", action=argparse.BooleanOptionalAction, default=True,
        help="half of the jobs may have a second attempt beside a slow one; a calm run without any such attempt fails",
    )  # fmt: skip
    parser.add_argument(
        "--operators", action=argparse.BooleanOptionalAction, default=True,
        help="pause, change and retry jobs in bulk meanwhile",
    )  # fmt: skip
    parser.add_argument("--short", action="store_true", help="each kind of trouble once")
    parser.add_argument("--calm", action="store_true", help="break nothing but the provider, for comparison")
    parser.add_argument("--report", type=Path, help="Markdown; the JSON goes beside it")
    parser.add_argument("--keep", type=Path, help="keep logs, ledgers and topics here")
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
