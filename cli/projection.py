"""`backstop projection`: the logs into the read model, until SIGTERM."""

import asyncio

import uvloop

from cli.processes import prepare, stop_on_signals
from cli.settings import read


def projection() -> None:
    """Run the projection until SIGTERM. Settings come from the environment (`backstop settings`)."""
    from readmodel.app import serve  # noqa: PLC0415 - only this command pays for the import
    from readmodel.settings import ProjectionSettings  # noqa: PLC0415 - as above
    from runtime.topics import require_topics  # noqa: PLC0415 - as above

    settings = read(ProjectionSettings)
    now_ms = prepare(settings, "projection")

    async def run() -> None:
        stop = asyncio.Event()
        stop_on_signals(stop)
        await require_topics(settings)
        await serve(settings, now_ms, stop)

    uvloop.run(run())
