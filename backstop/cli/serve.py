"""`backstop serve`: the HTTP ingress and the reads on one port, until SIGTERM."""

import os

import typer
import uvloop

from backstop.cli.unknown_variables import warn_of_unknown
from backstop.readmodel.settings import ProjectionSettings
from backstop.runtime.read_settings import read
from backstop.runtime.startup import prepare
from receiver.serve import run
from receiver.settings import ReceiverSettings


def serve() -> None:
    """Run the HTTP API until SIGTERM. Settings come from the environment (`backstop settings`)."""
    warn_of_unknown(os.environ)
    settings = read(ReceiverSettings)
    now_ms = prepare(settings, "serve")
    uvloop.run(run(settings, read(ProjectionSettings), now_ms))
    raise typer.Exit(0)
