"""`backstop broker up | down | status`: a Kafka broker for this checkout: given, in Docker, or on the local JVM."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from backstop.cli.output import CANNOT
from backstop.dev import broker
from backstop.dev.state import state_folder

app = typer.Typer(
    help="A Kafka broker for this checkout: given, in Docker, or on the local JVM.",
    no_args_is_help=True,
    add_completion=False,
)

StateDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the broker's record and data. Default: $BACKSTOP_STATE_DIR, else .backstop."),
]


@app.command()
def up(state_dir: StateDir = None) -> None:
    """Start a broker, or find the running one, and print its bootstrap address once it answers."""
    folder = state_folder(state_dir)
    try:
        record = broker.up(os.environ, folder, lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    except broker.BrokerError as error:
        typer.echo(f"backstop broker up: {error}", err=True)
        raise typer.Exit(CANNOT) from None
    typer.echo(f"kind={record.kind} state={folder}", err=True)
    typer.echo(record.bootstrap)


@app.command()
def down(
    state_dir: StateDir = None,
    wipe: Annotated[bool, typer.Option("--wipe", help="Remove the broker's data too.")] = False,
) -> None:
    """Stop the broker that `up` started, and wait for its exit."""
    try:
        typer.echo(broker.down(os.environ, state_folder(state_dir), wipe=wipe))
    except broker.BrokerError as error:
        typer.echo(f"backstop broker down: {error}", err=True)
        raise typer.Exit(CANNOT) from None


@app.command()
def status(state_dir: StateDir = None) -> None:
    """Show the broker and whether it answers. Exit 0: it answers; 1: it doesn't."""
    found = broker.status(os.environ, state_folder(state_dir))
    typer.echo(found.sentence)
    raise typer.Exit(0 if found.answers else 1)
