"""The `backstop` command: a file a subcommand, mounted here."""

import typer

from cli import broker

app = typer.Typer(name="backstop", no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)


@app.callback()
def root() -> None:
    """Sees every accepted OpenAI Background-mode job through to exactly one result."""


app.add_typer(broker.app, name="broker")


def main() -> None:
    app()
