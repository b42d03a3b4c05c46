"""The first steps of every long-running command: logs, failpoints, the clock, signals."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TypeVar

import uvloop
from prometheus_client import Gauge, disable_created_metrics

from backstop.runtime.errors import ConfigurationError
from backstop.runtime.kafka.topics import require_topics
from backstop.runtime.process import failpoints
from backstop.runtime.process.clock import NowMs, make_clock
from backstop.runtime.process.files import make_private
from backstop.runtime.process.garbage import settle_garbage_collector
from backstop.runtime.process.logs import configure, get_logger
from backstop.runtime.release import release
from backstop.runtime.settings import RuntimeSettings

S = TypeVar("S", bound=RuntimeSettings)


def prepare(settings: RuntimeSettings, process: str) -> NowMs:
    """Configure logs, private folders, failpoints and the heap; returns the clock of the process.

    :raises ConfigurationError: an unknown failpoint, or a clock offset without failpoints.
    """
    configure(settings.log_format, settings.log_level, process)
    make_private(settings.data_dir)
    if settings.blobs is None:
        make_private(settings.blobs_path)
    try:
        failpoints.arm(settings.failpoints)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    if failpoints.armed():
        get_logger(process).warning("failpoints_armed", failpoints=failpoints.armed())
    elif settings.clock_offset_ms:
        raise ConfigurationError("BACKSTOP_CLOCK_OFFSET_MS is for tests: it needs BACKSTOP_FAILPOINTS")
    settle_garbage_collector()
    # Half of all samples, of no use: Prometheus sees a restart by the counter itself.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    _build_info().labels(release(), process).set(1)
    return make_clock(settings.clock_offset_ms)


@cache
def _build_info() -> Gauge:
    return Gauge("backstop_build_info", "1; the labels tell the release of this process.", ("version", "component"))


def run_until_stopped(
    settings: S, process: str, serve: Callable[[S, NowMs, asyncio.Event], Awaitable[None]]
) -> None:  # fmt: skip
    """Check the topics, then run `serve` until SIGTERM or SIGINT.

    :raises ConfigurationError: see `prepare`; or a topic is missing, or differs fatally.
    """
    now_ms = prepare(settings, process)

    async def run() -> None:
        stop = asyncio.Event()
        stop_on_signals(stop)
        await require_topics(settings)
        await serve(settings, now_ms, stop)

    uvloop.run(run())


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT set `stop`; running work is finished."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
