"""`backstop audit watch`: the proof on a schedule, with metrics."""

import asyncio
import sys
from typing import Annotated

import typer
import uvloop

from backstop.audit.scheduled import AuditMetrics, run_once
from backstop.audit.scheduled import watch as run_watch
from backstop.cli.settings import bootstrap_settings
from backstop.cli.times import span_ms
from backstop.runtime.http.health import Health, HealthServer
from backstop.runtime.startup import prepare, stop_on_signals


def watch(
    every: Annotated[
        str, typer.Option(help="Time between two runs, and the longest that one may take: 30m, 6h.")
    ] = "6h",
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port for health and metrics, at BACKSTOP_HEALTH_HOST; 0: none.")
    ] = 0,
    no_readmodel: Annotated[bool, typer.Option("--no-readmodel", help="Don't compare the read model.")] = False,
) -> None:
    """Run `audit verify` now and then again and again until SIGTERM, and show its result as metrics.

    Alerts on them are in deploy/prometheus/alerts.yml. Run one for each system.
    """
    settings = bootstrap_settings()
    every_s = span_ms(every) / 1000
    now_ms = prepare(settings, "audit")
    command = [sys.executable, "-P", "-m", "backstop.cli", "audit", "verify", "-o", "json", "--quiet"]
    command += ["--no-readmodel"] if no_readmodel else []

    async def run() -> None:
        stop = asyncio.Event()
        stop_on_signals(stop)
        server = HealthServer(Health("audit"), port, settings.health_host)
        await server.start()
        try:
            await run_watch(
                lambda: run_once(command, every_s, stop), every_s, AuditMetrics(), lambda: now_ms() / 1000, stop
            )
        finally:
            await server.stop()

    uvloop.run(run())
