"""`python -m readmodel [run|digest]`: reads the environment, and runs."""

import argparse
import asyncio
import signal
import sys

from readmodel.app import serve
from readmodel.opening import database_at
from readmodel.queries import digest
from readmodel.settings import ProjectionSettings
from runtime import failpoints
from runtime.clock import NowMs, make_clock
from runtime.errors import BackstopError, ConfigurationError
from runtime.logs import configure, get_logger

log = get_logger("readmodel")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m readmodel", description="Logs in, read model out.")
    parser.add_argument("what", nargs="?", default="run", choices=("run", "digest"))
    what = parser.parse_args().what
    settings = ProjectionSettings()
    configure(settings.log_format, settings.log_level, process="readmodel")
    failpoints.arm(settings.failpoints)
    if settings.clock_offset_ms and not settings.failpoints:
        raise ConfigurationError("BACKSTOP_CLOCK_OFFSET_MS is for tests, and needs BACKSTOP_FAILPOINTS")
    now_ms = make_clock(settings.clock_offset_ms)
    try:
        if what == "digest":
            print(asyncio.run(_digest(settings, now_ms)))
        else:
            asyncio.run(_run(settings, now_ms))
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


async def _digest(settings: ProjectionSettings, now_ms: NowMs) -> str:
    database = database_at(settings.readmodel_url, now_ms)
    try:
        return await database.read(digest)
    finally:
        await database.close()


if __name__ == "__main__":
    sys.exit(main())
