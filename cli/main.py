"""The `backstop` command: a file a subcommand, mounted here."""

import sys

import typer

from cli import broker, settings, topics
from cli.talk import CANNOT
from runtime.broker import BrokerError
from runtime.errors import BackstopError

app = typer.Typer(name="backstop", no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)


@app.callback()
def root() -> None:
    """Sees every accepted OpenAI Background-mode job through to exactly one result."""


app.add_typer(broker.app, name="broker")
app.add_typer(topics.app, name="topics")
app.command("settings")(settings.settings)


def main() -> None:
    """Run the command line. What an operator can mend is told in a sentence; anything else is ours, with its traceback."""
    try:
        app()
    except (BackstopError, BrokerError) as error:
        print(f"backstop: {error}", file=sys.stderr)
        sys.exit(CANNOT)
