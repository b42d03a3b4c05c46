"""`backstop outgoing`: results to the webhook endpoints of tenants, until SIGTERM."""

import asyncio

import uvloop

from cli.processes import prepare, stop_on_signals
from cli.settings import read


def outgoing() -> None:
    """Deliver outgoing webhooks until SIGTERM. Settings come from the environment (`backstop settings`)."""
    from outgoing.app import serve  # noqa: PLC0415 - only this command pays for the import
    from outgoing.settings import OutgoingSettings  # noqa: PLC0415 - as above
    from runtime.topics import require_topics  # noqa: PLC0415 - as above

    settings = read(OutgoingSettings)
    now_ms = prepare(settings, "outgoing")

    async def run() -> None:
        stop = asyncio.Event()
        stop_on_signals(stop)
        await require_topics(settings)
        await serve(settings, now_ms, stop)

    uvloop.run(run())
