"""`backstop worker`: folds, scheduler, submitter and caller in one process."""

import typer


def worker() -> None:
    """Run a worker until SIGTERM. Settings come from the environment (`backstop settings`)."""
    from streams.__main__ import main  # noqa: PLC0415 - Faust takes a second to import; only this command pays it

    raise typer.Exit(main())
