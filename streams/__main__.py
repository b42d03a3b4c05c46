"""The worker as a process: `python -m streams`. SIGTERM and SIGINT stop it; batches in hand are finished."""

import asyncio
import signal
import sys

import structlog
import uvloop
from pydantic import ValidationError

from runtime import failpoints
from runtime.clock import make_clock
from runtime.errors import BackstopError, ConfigurationError
from runtime.heap import settle_heap
from runtime.logs import configure
from runtime.topics import require_topics
from streams.app import Worker
from streams.settings import StreamSettings

log = structlog.get_logger()


async def run(settings: StreamSettings) -> None:
    """Until SIGTERM or SIGINT.

    :raises ConfigurationError: the topics are not as they must be.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await require_topics(settings)
    await Worker(settings, make_clock(settings.clock_offset_ms)).run(stop)


def main() -> int:
    """0 stopped as asked; 2 the operator must change something first."""
    try:
        settings = StreamSettings()
        configure(settings.log_format, settings.log_level, "worker")
        _arm(settings)
        settle_heap()
        uvloop.run(run(settings))
    except ValidationError as error:
        print(f"settings: {error}", file=sys.stderr)
        return 2
    except BackstopError as error:
        print(f"worker: {error}", file=sys.stderr)
        return 2
    return 0


def _arm(settings: StreamSettings) -> None:
    """:raises ConfigurationError: a failpoint that does not exist, or a wrong clock without failpoints."""
    try:
        failpoints.arm(settings.failpoints)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    if failpoints.armed():
        log.warning("failpoints_armed", failpoints=failpoints.armed())
    elif settings.clock_offset_ms:
        raise ConfigurationError("BACKSTOP_CLOCK_OFFSET_MS is for tests: it needs BACKSTOP_FAILPOINTS to be set")


if __name__ == "__main__":
    sys.exit(main())
