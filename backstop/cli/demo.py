"""`backstop demo`: runs a few hundred jobs through the whole system under faults, then checks the invariants."""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from backstop.cli.demo_text import as_json, show
from backstop.cli.faults import Faults
from backstop.cli.interrupts import OnKill, run_interruptible
from backstop.cli.output import DIFFERS, DONE, Form, Output, Quiet, emit_one, tell
from backstop.cli.progress import shown
from backstop.dev.driver import Driver
from backstop.dev.evidence import collect
from backstop.dev.fast_provider import BRISK, TIME_SCALE
from backstop.dev.judge import judge
from backstop.dev.supervisor import Tell
from backstop.dev.system import Shape, remove_folder, running_system
from backstop.runtime.process.clock import make_clock, monotonic_s

TIMEOUT_MS = 60_000
"""Deadline of each job. Leaves time for two responses that the provider never ends, and a third that completes."""

STUCK_AFTER_S = 120.0
"""In the provider's time. Nearly all runs end sooner; a response that runs longer is cancelled and its job retried."""

RETRIES_MAX = 2
STUCK_AFTER = "BACKSTOP_SUBMISSION_STUCK_AFTER_MS"
SUBMIT_WITHIN_S = 12.0
RATE_PER_S_MIN = 20.0
PAST_DEADLINE_S = 45.0
"""How long after the last deadline a result may arrive before its job counts as lost."""

LINGER_S = 3.0
"""How long to keep reading after the last result, to catch duplicates."""


def demo(
    jobs: Annotated[int, typer.Option(min=1, max=100_000, help="How many jobs.")] = 300,
    faults: Faults = "demo",
    seed: Annotated[int, typer.Option(help="The same seed gives the same faults.")] = 1,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")] = 1,
    partitions: Annotated[
        int, typer.Option(envvar="BACKSTOP_PARTITIONS", min=1, max=256, help="Partitions of each topic.")
    ] = 4,
    timeout_s: Annotated[float, typer.Option(min=1, help="Deadline of each job.")] = TIMEOUT_MS / 1000,
    rate: Annotated[
        float | None,
        typer.Option(min=0.1, help="Jobs submitted per second. Default: all within 12 s, but at least 20."),
    ] = None,
    time_scale: Annotated[float, typer.Option(min=0.001, help="How much faster than OpenAI the simulator runs.")] = (
        TIME_SCALE
    ),
    keep_logs: Annotated[Path | None, typer.Option(help="Folder to copy logs and ledgers to at the end.")] = None,
    output: Output = Form.TABLE,
    quiet: Quiet = False,
) -> None:
    """Run jobs through the whole system under faults, then check the invariants. Exit 1: an invariant is violated."""
    if keep_logs is not None:
        keep_logs.mkdir(parents=True, exist_ok=True)  # a folder that can't be made is refused before the run
    folder = Path(tempfile.mkdtemp(prefix="backstop-demo-"))
    shape = Shape(
        folder=folder,
        environment={**BRISK, STUCK_AFTER: stuck_after_ms(time_scale), **os.environ},
        port=0,
        workers=workers,
        partitions=partitions,
        faults=faults,
        seed=seed,
        time_scale=time_scale,
    )
    rate_per_s = rate or max(RATE_PER_S_MIN, jobs / SUBMIT_WITHIN_S)

    async def main(on_kill: OnKill) -> int:
        return await _demo(shape, jobs, rate_per_s, int(timeout_s * 1000), on_kill, output, quiet=quiet)

    try:
        code = run_interruptible(main)
    finally:
        if keep_logs is not None:
            _keep(folder, keep_logs)
        remove_folder(folder)
    raise typer.Exit(code)


def stuck_after_ms(time_scale: float) -> str:
    """The value of the setting, which allows no less than a second."""
    return str(max(1_000, round(STUCK_AFTER_S * 1_000 / time_scale)))


async def _demo(
    shape: Shape, jobs: int, rate_per_s: float, timeout_ms: int, on_kill: OnKill, output: Form, *, quiet: bool
) -> int:
    def say(text: str) -> None:
        tell(text, quiet=quiet)

    say(f"starting broker, simulator (faults: {shape.faults}), API, worker and projection …")
    async with running_system(shape, say, on_kill) as system:
        say(f"ready after {system.started_in_s:.1f} s; {jobs} jobs follow, half over Kafka, half over HTTP")
        driver = Driver(system.runtime, system.url, make_clock())
        await driver.start()
        began_s = monotonic_s()
        try:
            async with shown(driver, jobs, quiet=quiet):
                await _run(driver, jobs, rate_per_s, timeout_ms, say)
        finally:
            await driver.stop()
        ran_s = monotonic_s() - began_s
        verdict = judge(await collect(driver, system))
        seconds = {"start": system.started_in_s, "run": ran_s}
    if output is Form.TABLE:
        show(verdict, seconds)
    else:
        emit_one(as_json(verdict, seconds))
    return DIFFERS if verdict.violations else DONE


async def _run(driver: Driver, jobs: int, rate_per_s: float, timeout_ms: int, say: Tell) -> None:
    await driver.submit(f"demo-{os.urandom(3).hex()}", jobs, rate_per_s, timeout_ms, RETRIES_MAX)
    if not await driver.until_finished(timeout_ms / 1000 + PAST_DEADLINE_S):
        say(f"{driver.open()} jobs have no result {PAST_DEADLINE_S:g} s after the last deadline")
    await asyncio.sleep(LINGER_S)


def _keep(folder: Path, into: Path) -> None:
    for part in ("logs", "ledgers"):
        if (folder / part).is_dir():
            shutil.copytree(folder / part, into / part, dirs_exist_ok=True, symlinks=True)
