"""`python -m readmodel [run|digest|rebuild]`: reads the environment, and runs.

Exit codes: 0 done, 1 a rebuild differs from what it would replace, 2 it could not be done.
"""

import argparse
import asyncio
import signal
import sys
from dataclasses import asdict

from readmodel.app import serve
from readmodel.opening import database_at
from readmodel.queries import digest
from readmodel.rebuild import rebuild
from readmodel.settings import ProjectionSettings
from runtime import failpoints
from runtime.clock import NowMs, make_clock
from runtime.errors import BackstopError, ConfigurationError
from runtime.logs import configure, get_logger
from schemas.codec import canonical

log = get_logger("readmodel")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m readmodel", description="Logs in, read model out.")
    parser.add_argument("what", nargs="?", default="run", choices=("run", "digest", "rebuild"))
    parser.add_argument("--accept-differences", action="store_true", help="rebuild: swap even if the content differs")
    arguments = parser.parse_args()
    what: str = arguments.what
    settings = ProjectionSettings()
    configure(settings.log_format, settings.log_level, process="readmodel")
    failpoints.arm(settings.failpoints)
    if settings.clock_offset_ms and not settings.failpoints:
        raise ConfigurationError("BACKSTOP_CLOCK_OFFSET_MS is for tests, and needs BACKSTOP_FAILPOINTS")
    now_ms = make_clock(settings.clock_offset_ms)
    try:
        if what == "digest":
            print(asyncio.run(_digest(settings, now_ms)))
        elif what == "rebuild":
            return asyncio.run(_rebuild(settings, now_ms, accept_differences=arguments.accept_differences))
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


async def _rebuild(settings: ProjectionSettings, now_ms: NowMs, *, accept_differences: bool) -> int:
    database = database_at(settings.readmodel_url, now_ms)
    try:
        done = await rebuild(settings, database, accept_differences=accept_differences)
    finally:
        await database.close()
    print(canonical(asdict(done)).decode())
    return 0 if done.swapped else 1


async def _digest(settings: ProjectionSettings, now_ms: NowMs) -> str:
    database = database_at(settings.readmodel_url, now_ms)
    try:
        return await database.read(digest)
    finally:
        await database.close()


if __name__ == "__main__":
    sys.exit(main())
