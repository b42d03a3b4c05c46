"""`python -m readmodel`: the projection, until SIGTERM, with what the environment says. 2: it could not run."""

import asyncio
import signal
import sys

from readmodel.app import serve
from readmodel.settings import ProjectionSettings
from runtime import failpoints
from runtime.clock import NowMs, make_clock
from runtime.errors import BackstopError, ConfigurationError
from runtime.logs import configure, get_logger

log = get_logger("readmodel")


def main() -> int:
    settings = ProjectionSettings()
    configure(settings.log_format, settings.log_level, process="readmodel")
    failpoints.arm(settings.failpoints)
    if settings.clock_offset_ms and not settings.failpoints:
        raise ConfigurationError("BACKSTOP_CLOCK_OFFSET_MS is for tests, and needs BACKSTOP_FAILPOINTS")
    try:
        asyncio.run(_run(settings, make_clock(settings.clock_offset_ms)))
    except BackstopError as error:
        log.error("readmodel_stopped", reason=str(error))
        return 2
    return 0


async def _run(settings: ProjectionSettings, now_ms: NowMs) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, now_ms, stop)


if __name__ == "__main__":
    sys.exit(main())
