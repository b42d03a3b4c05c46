"""`backstop projection`: projects the logs into the read model, until SIGTERM."""

import os

from backstop.cli.unknown_variables import warn_of_unknown
from backstop.runtime.read_settings import read
from backstop.runtime.startup import run_until_stopped


def projection() -> None:
    """Run the projection until SIGTERM. Settings come from the environment (`backstop settings`)."""
    from backstop.readmodel.app import serve  # noqa: PLC0415 - only this command pays for the import
    from backstop.readmodel.settings import ProjectionSettings  # noqa: PLC0415 - as above

    warn_of_unknown(os.environ)
    run_until_stopped(read(ProjectionSettings), "projection", serve)
