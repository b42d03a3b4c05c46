"""`backstop outgoing`: delivers webhooks about results to the endpoints of tenants, until SIGTERM."""

import os

from backstop.cli.unknown_variables import warn_of_unknown
from backstop.runtime.process.garbage import imports_uncollected
from backstop.runtime.read_settings import read
from backstop.runtime.startup import run_until_stopped


def outgoing() -> None:
    """Deliver outgoing webhooks until SIGTERM. Settings come from the environment (`backstop settings`)."""
    with imports_uncollected():
        from backstop.outgoing.app import checked, serve  # noqa: PLC0415 - only this command pays for the import
        from backstop.outgoing.settings import OutgoingSettings  # noqa: PLC0415 - as above

    warn_of_unknown(os.environ)
    run_until_stopped(checked(read(OutgoingSettings)), "outgoing", serve)
