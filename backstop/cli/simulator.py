"""`backstop simulator`: the stand-in for OpenAI, for tests of other projects as well."""

import typer

from backstop.simulator.__main__ import main

app = typer.Typer(add_completion=False)


@app.command(
    "simulator",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def simulator(context: typer.Context) -> None:
    """Run the stand-in for OpenAI's background responses until SIGTERM (docs/simulator.md)."""
    raise typer.Exit(main(context.args, prog="backstop simulator"))
