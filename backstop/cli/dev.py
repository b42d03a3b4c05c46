"""`backstop dev`: runs the whole system as one process tree until Ctrl-C."""

import asyncio
import os
import shlex
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from backstop.cli.faults import Faults
from backstop.cli.interrupts import OnKill, run_interruptible
from backstop.cli.output import DONE, Quiet, tell
from backstop.cli.unknown_variables import warn_of_unknown
from backstop.dev import broker
from backstop.dev.driver import Driver
from backstop.dev.fast_provider import BRISK, TIME_SCALE
from backstop.dev.state import STATE_FOLDER, DevState, forget_state, only_one, state_folder, write_state
from backstop.dev.supervisor import Tell
from backstop.dev.system import PORT_PREFERRED, Shape, System, real_openai, remove_folder, running_system
from backstop.runtime.process.clock import make_clock

RUN_PREFIX = "run-"
KEPT = "kept"
SAMPLE_RATE_PER_S = 10.0
SAMPLE_TIMEOUT_MS = 120_000
SAMPLE_RETRIES_MAX = 2
LINE_EVERY_S = 5.0


def dev(
    state_dir: Annotated[
        Path | None, typer.Option(help="Folder for state. Default: $BACKSTOP_STATE_DIR, else .backstop.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Submit this many sample jobs.")] = 0,
    faults: Faults = "calm",
    partitions: Annotated[
        int, typer.Option(envvar="BACKSTOP_PARTITIONS", min=1, max=256, help="Partitions of each topic.")
    ] = 4,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")] = 1,
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port of the API. If it is taken, a free one is used.")
    ] = PORT_PREFERRED,
    keep: Annotated[bool, typer.Option("--keep", help="Keep all data; the next start continues from it.")] = False,
    openai: Annotated[
        bool,
        typer.Option(
            "--openai",
            envvar="BACKSTOP_REAL_OPENAI",
            help="Use the real OpenAI: OPENAI_API_KEY, OPENAI_WEBHOOK_SECRET, OPENAI_BASE_URL. It costs money.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same faults.")] = 1,
    time_scale: Annotated[float, typer.Option(min=0.001, help="How much faster than OpenAI the simulator runs.")] = (
        TIME_SCALE
    ),
    webhooks: Annotated[
        bool, typer.Option("--webhooks", help="Also deliver outgoing webhooks, including to addresses of this machine.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Start broker, simulator, API, worker and projection, and print their addresses. Ctrl-C stops all of them."""
    warn_of_unknown(os.environ)
    folder = state_folder(state_dir)
    with only_one(folder):
        run_folder = _run_folder(folder, keep=keep)
        shape = Shape(
            folder=run_folder,
            keep=keep,
            environment={**os.environ} if openai else {**BRISK, **os.environ},
            recorded_bootstrap=_recorded_bootstrap(folder),
            port=port,
            workers=workers,
            partitions=partitions,
            faults=faults,
            seed=seed,
            time_scale=time_scale,
            openai=real_openai(os.environ) if openai else None,
            webhooks=webhooks,
        )

        async def main(on_kill: OnKill) -> int:
            return await _dev(shape, folder, jobs, on_kill, quiet=quiet)

        try:
            code = run_interruptible(main, interrupted=DONE)
        finally:
            forget_state(folder)
            if not keep:
                remove_folder(run_folder)
    raise typer.Exit(code)


async def _dev(shape: Shape, folder: Path, jobs: int, on_kill: OnKill, *, quiet: bool) -> int:
    def say(text: str) -> None:
        tell(text, quiet=quiet)

    say("starting broker, simulator, API, worker and projection …")
    async with running_system(shape, say, on_kill) as system:
        write_state(folder, _state(system, shape))
        say(f"ready after {system.started_in_s:.1f} s; logs: {system.supervisor.log('serve').parent}")
        print(_where(system, shape, folder), flush=True)
        if jobs:
            await _feed(system, jobs, say)
        await asyncio.Event().wait()
    return DONE


def _run_folder(folder: Path, *, keep: bool) -> Path:
    # This process holds the folder's lock, so any run's folder in it is left over from a killed run.
    for stale in folder.glob(f"{RUN_PREFIX}*"):
        remove_folder(stale)
    if not keep:
        return Path(tempfile.mkdtemp(prefix=RUN_PREFIX, dir=folder))
    kept = folder / KEPT
    kept.mkdir(exist_ok=True)
    return kept


def _recorded_bootstrap(folder: Path) -> str | None:
    """The running broker that `backstop broker up` recorded in this folder, or None."""
    if not (folder / "broker.json").exists():
        return None
    found = broker.status(os.environ, folder)
    return found.record.bootstrap if found.record is not None and found.answers else None


def _state(system: System, shape: Shape) -> DevState:
    return DevState(
        pid=os.getpid(),
        url=system.url,
        bootstrap=system.bootstrap,
        topic_prefix=system.runtime.topic_prefix,
        partitions=shape.partitions,
        simulator_url=system.simulator_url,
        logs=str(shape.folder / "logs"),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _where(system: System, shape: Shape, folder: Path) -> str:
    provider = f"{system.simulator_url}  (controls under /sim, faults: {shape.faults})"
    if shape.openai is not None:
        provider = f"{shape.openai.base_url or 'https://api.openai.com/v1'}  (the real one)"
        if not shape.openai.webhook_secrets:
            provider += "\n             webhooks off: OPENAI_WEBHOOK_SECRET is not set, and ends are found by polling"
        provider += f"\n\n{_tunnel(system.url, set_up=bool(shape.openai.webhook_secrets))}"
    body = '{"job_id": "hello", "request": {"model": "gpt-5.2", "input": "Say hello."}}'
    return f"""
  Page       {system.url}/ui
  API        {system.url}/v1/jobs   webhooks: {system.url}/webhooks/openai   {system.url}/metrics
  OpenAI     {provider}
  Kafka      {system.bootstrap}  (topics {system.runtime.topic_prefix}*; {system.broker_kind})

  curl -s {system.url}/v1/jobs -H 'Content-Type: application/json' -d '{body}'
  {_command(folder)} jobs follow hello

Ctrl-C stops everything{"." if shape.keep else " and removes its data (--keep keeps it)."}"""


def _tunnel(url: str, *, set_up: bool) -> str:
    """How OpenAI's webhooks reach this machine, in three lines."""
    again = "" if set_up else "; then start `backstop dev --openai` again"
    return (
        f"  1. open a tunnel to this machine:  cloudflared tunnel --url {url}   (or: ngrok http {url})\n"
        "  2. at https://platform.openai.com/settings/project/webhooks add  https://YOUR-TUNNEL/webhooks/openai  for "
        "response.*\n"
        f"  3. export OPENAI_WEBHOOK_SECRET=whsec_... (shown once there){again}"
    )


def _command(folder: Path) -> str:
    """The command as the user would type it in the current directory."""
    name = "backstop" if shutil.which("backstop") else sys.argv[0]
    is_default = folder == Path(STATE_FOLDER).resolve() or "BACKSTOP_STATE_DIR" in os.environ
    return name if is_default else f"BACKSTOP_STATE_DIR={shlex.quote(str(folder))} {name}"


async def _feed(system: System, count: int, say: Tell) -> None:
    driver = Driver(system.runtime, system.url, make_clock())
    await driver.start()
    try:
        name = f"sample-{os.urandom(2).hex()}"
        submitting = asyncio.create_task(
            driver.submit(name, count, SAMPLE_RATE_PER_S, SAMPLE_TIMEOUT_MS, SAMPLE_RETRIES_MAX)
        )
        try:
            while not (submitting.done() and driver.open() == 0):
                await asyncio.sleep(LINE_EVERY_S)
                taken = len(driver.acknowledged)
                say(f"sample jobs: {taken} of {count} submitted, {taken - driver.open()} finished")
            submitting.result()
        finally:
            submitting.cancel()
            await asyncio.gather(submitting, return_exceptions=True)
    finally:
        await driver.stop()
