"""`backstop readmodel rebuild | digest`: rebuilds the read model from the topics; prints the live one's digest."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, TypeVar

import typer

from backstop.cli.output import DIFFERS, Quiet, emit_one, tell
from backstop.readmodel.database import Database
from backstop.readmodel.opening import database_at
from backstop.readmodel.queries import digest as digest_of
from backstop.readmodel.rebuild import rebuild as rebuild_from_the_logs
from backstop.readmodel.settings import ProjectionSettings
from backstop.runtime.read_settings import read
from backstop.runtime.startup import prepare

T = TypeVar("T")

app = typer.Typer(
    help="Rebuild and compare the read model, the database that front ends read.",
    no_args_is_help=True,
    add_completion=False,
)

Accept = Annotated[
    bool, typer.Option("--accept-differences", help="Swap even if the new one differs, for example after retention.")
]


@app.command()
def rebuild(accept_differences: Accept = False, quiet: Quiet = False) -> None:
    """Build a new read model from the topics beside the live one, compare both, and swap. Readers and projection keep
    running meanwhile.

    Exit codes: 0 swapped; 1 the new one differs and was not swapped; 2 the rebuild failed.
    """
    settings = read(ProjectionSettings)
    tell("building a new read model beside the one in use ...", quiet=quiet)
    done = _with_database(
        settings, lambda database: rebuild_from_the_logs(settings, database, accept_differences=accept_differences)
    )
    emit_one(asdict(done))
    if not done.swapped:
        tell("the new one differs and was discarded; rebuild with --accept-differences to swap it anyway", quiet=quiet)
        raise typer.Exit(DIFFERS)


@app.command()
def digest() -> None:
    """Print the SHA-256 of the live read model's content. Two read models of the same logs have the same digest."""
    print(_with_database(read(ProjectionSettings), lambda database: database.read(digest_of)))


def _with_database(settings: ProjectionSettings, work: Callable[[Database], Awaitable[T]]) -> T:
    now_ms = prepare(settings, "readmodel")

    async def run() -> T:
        database = database_at(settings.readmodel_url, now_ms)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())
