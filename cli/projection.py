"""`backstop projection`: the logs into the read model, until SIGTERM."""

from cli.processes import run_until_stopped
from cli.settings import read


def projection() -> None:
    """Run the projection until SIGTERM. Settings come from the environment (`backstop settings`)."""
    from readmodel.app import serve  # noqa: PLC0415 - only this command pays for the import
    from readmodel.settings import ProjectionSettings  # noqa: PLC0415 - as above

    run_until_stopped(read(ProjectionSettings), "projection", serve)
