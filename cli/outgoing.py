"""`backstop outgoing`: results to the webhook endpoints of tenants, until SIGTERM."""

from cli.processes import run_until_stopped
from cli.settings import read


def outgoing() -> None:
    """Deliver outgoing webhooks until SIGTERM. Settings come from the environment (`backstop settings`)."""
    from outgoing.app import serve  # noqa: PLC0415 - only this command pays for the import
    from outgoing.settings import OutgoingSettings  # noqa: PLC0415 - as above

    run_until_stopped(read(OutgoingSettings), "outgoing", serve)
